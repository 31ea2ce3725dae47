"""Warnings about names that changed; the old ones are taken for one version."""

from __future__ import annotations

import sys
import warnings


def warn_renamed(old: str, new: str) -> None:
    """Warn that `old` is now `new`, at the line that used it: the first outside captionkit and `dataclasses`."""
    frame, level = sys._getframe(1), 2  # level 1 is this function
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("captionkit", "dataclasses"):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"{old} is now {new}", FutureWarning, stacklevel=level)
