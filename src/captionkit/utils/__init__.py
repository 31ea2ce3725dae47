"""Utilities shared by the other packages: files, paths, signals, progress."""
