"""The embedded street: a deterministic driving scene with labels."""
