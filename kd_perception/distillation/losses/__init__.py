"""Losses: plain functions of tensors, each with a golden value in the tests."""
