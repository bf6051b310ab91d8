"""What is counted on frames: right pixels, boundaries, objects, flicker, calibration, disagreement."""
