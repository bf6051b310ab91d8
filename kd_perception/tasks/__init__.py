"""What outputs mean: decoding, soft-label codecs and metrics, one file per task."""
