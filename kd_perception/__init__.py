"""Distil, compress, run and compare camera perception networks on ROS 2."""

__version__ = '0.1.0'
