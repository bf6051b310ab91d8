"""The camera node: the embedded street, recordings and CARLA as camera topics."""
