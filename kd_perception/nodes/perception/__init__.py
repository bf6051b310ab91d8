"""The perception node: camera images in, masks out."""
