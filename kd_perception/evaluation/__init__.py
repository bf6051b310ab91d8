"""Metrics on recordings, paired statistics and reports."""
