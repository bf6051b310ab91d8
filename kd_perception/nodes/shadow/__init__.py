"""The shadow node: a teacher beside a student that serves."""
