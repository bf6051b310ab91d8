"""A thin client of the CARLA simulator: labelled frames in synchronous mode."""
