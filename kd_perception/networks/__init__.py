"""Teachers and students as torch modules built from a spec, and their export."""
