"""A run on disk: its folder, checkpoints, sessions, trackers."""
