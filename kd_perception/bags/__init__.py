"""Recordings: rosbags, image folders and videos as frames, and writers of rosbags."""
