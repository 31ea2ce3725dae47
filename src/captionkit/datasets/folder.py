"""A plain folder of images, at any depth, without captions. Names that begin with a dot are passed over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from captionkit.datasets.assemble import Entry, Place
from captionkit.datasets.core import Problem
from captionkit.files import IMAGE_SUFFIXES

LOOKS_FOR = "images (.jpg, .png, .webp, ...) at any depth"
_CAPTION_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".token")


def detect(place: Place) -> list[Path]:
    """The folder itself, if there is an image in it."""
    found = (isinstance(item, str) and item.casefold().endswith(IMAGE_SUFFIXES) for item in _walk(place.root))
    return [place.root] if not place.file and any(found) else []


def read(place: Place, files: list[Path]) -> Iterator[Entry | Problem]:
    """Every image, in the order of the names of folders and files; an image's id is its path from the root."""
    for root in files:
        for item in _walk(root):
            if isinstance(item, Problem):
                yield item
            elif item.casefold().endswith(IMAGE_SUFFIXES):
                yield Entry(item, item, [], "", root.name, root)
            elif item.casefold().endswith(_CAPTION_SUFFIXES):
                yield Problem("unread file", item, "if it holds captions, open its own folder or name the layout")


def _walk(root: Path) -> Iterator[str | Problem]:
    """Paths from `root` of all files under it; folders that are not entered as problems."""
    closed: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=closed.append):
        within = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if Path(folder, name).is_symlink():
                yield Problem("linked folder", within + name, "not followed; copy the folder here")
        for name in sorted(names):
            if not name.startswith("."):
                yield within + name
    for error in closed:
        yield Problem("unreadable folder", os.path.relpath(error.filename, root), f"{error.strerror}")
