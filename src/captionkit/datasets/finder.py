"""Finding a dataset's images by name, inside its root and nowhere else."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from captionkit.datasets.core import Problem, split_of_file, split_of_folder

_IMAGE_FOLDER = re.compile(
    r"((flicke?r\d+k|ucm|rsicd|sydney)[_-])?(images?|imgs?|dataset)|pictures|photos", re.IGNORECASE
)
_COCO_FOLDER = re.compile(r"(train|val|test)\d{4}")


@dataclass
class _Listing:
    path: Path
    # NFC form of each file's name -> its name on disk, or None for a link that leads out of the root. Some disks hold
    # "ü" as two code points where caption files write one.
    files: dict[str, str | None] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


class ImageFinder:
    """Finds images under `root`. Each folder is listed once, however many images it is asked for; none is opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real_root = os.path.realpath(root)
        self._listings: dict[str, _Listing] = {}
        self._folders_of: dict[str, list[str]] = {}

    def find(self, file_name: str, *, split: str, folder: Path | None, source: str) -> Path | Problem:
        """The path of an image that the caption file `source` calls `file_name`, or why it cannot be used.

        `folder` is where the image must lie; without it, the folders that usually hold the images of `split` are tried.
        """
        parts = file_name.replace("\\", "/").split("/")
        if ".." in parts or file_name[:1] in ("/", "\\") or re.match(r"[A-Za-z]:[\\/]", file_name):
            return Problem("path outside the root", file_name, f"{source}: write it relative to {self.root}")
        *inner, name = [part for part in parts if part not in ("", ".")] or [""]
        name = unicodedata.normalize("NFC", name)
        folders = [str(folder)] if folder else self._folders(split)
        leads_out = False
        for place in folders:
            listing = self._list("/".join((place, *inner)))
            if name in listing.files:
                if found := listing.files[name]:
                    return listing.path / found
                leads_out = True
        if leads_out:
            detail = f"{source}: a link leads out of {self.root}; copy the image into it"
            return Problem("path outside the root", file_name, detail)
        looked = ", ".join((place[len(str(self.root)) + 1 :] or ".") + "/" for place in folders)
        return Problem("missing image", file_name, f"{source}: not in {looked}")

    def _list(self, folder: str) -> _Listing:
        if folder not in self._listings:
            self._listings[folder] = self._scan(folder)
        return self._listings[folder]

    def _scan(self, folder: str) -> _Listing:
        listing = _Listing(Path(folder))
        try:
            entries = os.scandir(folder)
        except PermissionError:
            raise
        except (OSError, ValueError):  # no such folder, or a name that no folder can have
            return listing
        outside = not self._inside(folder)
        with entries:
            for entry in entries:
                link = entry.is_symlink()
                if Path(entry.path).is_dir() if link else entry.is_dir():
                    listing.folders.append(entry.name)
                elif outside or (link and not self._inside(entry.path)):
                    listing.files[unicodedata.normalize("NFC", entry.name)] = None
                elif Path(entry.path).is_file() if link else entry.is_file():
                    listing.files[unicodedata.normalize("NFC", entry.name)] = entry.name
        return listing

    def _inside(self, path: str) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self._real_root)

    def _folders(self, split: str) -> list[str]:
        """Where images of `split` may lie: its own folder, any image folder, the root, other COCO folders."""
        if split not in self._folders_of:
            root = str(self.root)
            outer = [name for name in self._list(root).folders if _rank((name,), split) is not None]
            inner = [(name, deeper) for name in outer for deeper in self._list(f"{root}/{name}").folders]
            ranked = [
                (_rank(names, split), "/".join((root, *names))) for names in [(), *((name,) for name in outer), *inner]
            ]
            self._folders_of[split] = [folder for _, folder in sorted((r, f) for r, f in ranked if r is not None)]
        return self._folders_of[split]


def _rank(names: tuple[str, ...], split: str) -> int | None:
    """How likely a folder, given by the names on its way from the root, holds images of `split`: 0 most, None never."""
    ranks = [_rank_of_name(name, split) for name in names] or [2]
    known = [rank for rank in ranks if rank is not None]
    return None if len(known) < len(ranks) else 0 if 0 in known else max(known)


def is_image_folder(name: str) -> bool:
    """Whether a folder is called as folders of images are, whatever these show: images, photos, train2017, ..."""
    return bool(_IMAGE_FOLDER.fullmatch(name) or _COCO_FOLDER.fullmatch(name))


def _rank_of_name(name: str, split: str) -> int | None:
    # "val/" is closed to other splits, whose 1.jpg is another picture; COCO's names are unique over all its folders.
    coco = _COCO_FOLDER.fullmatch(name)
    if split_of_folder(name) == split or (coco and split_of_file(name) == split):
        return 0
    if _IMAGE_FOLDER.fullmatch(name):
        return 1
    return 3 if coco else None
