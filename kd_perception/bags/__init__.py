"""Recordings in and out: rosbags, image folders, videos."""
