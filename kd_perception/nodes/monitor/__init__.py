"""The monitor node: holds perception nodes against each other, frame by frame."""
