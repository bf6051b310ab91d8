"""Labelling by a teacher, the soft-label cache, training and distillation."""
