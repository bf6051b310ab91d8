"""What is counted on frames: boundaries, objects, flicker, calibration, disagreement."""
