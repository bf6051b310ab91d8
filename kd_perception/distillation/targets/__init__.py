"""What is learned, one module per task: forward pass and named loss terms, and validation."""
