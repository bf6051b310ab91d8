"""Runtimes behind one interface: one file per runtime."""
