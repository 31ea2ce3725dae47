"""What the other packages share: files, paths, signals, progress."""
