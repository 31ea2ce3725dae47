"""Locating a dataset's images by name, inside its root only.

Symbolic links inside the root belong to its owner and are followed; paths in caption files never leave the root.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

from captionkit.data.layouts.caption_set import WHOLE, Problem, id_of_file, split_of_file, split_of_folder
from captionkit.utils.paths import IMAGE_SUFFIXES

_IMAGE_FOLDER = re.compile(
    r"((flicke?r\d+k|ucm|rsicd|sydney)[_-])?(images?|imgs?|dataset)|pictures|pics|photos|jpe?gimages", re.IGNORECASE
)
_COCO_FOLDER = re.compile(r"(train|val|test)\d{4}")
_DRIVE = re.compile(r"[A-Za-z]:/")
_MOST_LOOKED_AT = 200_000  # files of the root searched for the location of a missing image
_PLACES_SAID = 2

_IN_OWN_FOLDER, _IN_ANY_FOLDER, _IN_ROOT, _ELSEWHERE = range(4)


@dataclass
class _Listing:
    path: Path
    # NFC form of each file's name -> its name on disk. Some file systems store "ü" as two code points where caption
    # files have one.
    files: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    closed: str = ""

    def near(self, name: str) -> str | None:
        """Return the only file that `name` can mean, ignoring case, a missing suffix or missing zeros.

        None if ambiguous.
        """
        found = self._folded.get(name.casefold(), [])
        if not found and not name.casefold().endswith(IMAGE_SUFFIXES):
            found = self._stems.get(name.casefold(), []) or self._stems.get(str(id_of_file(f"{name}.jpg")), [])
        return found[0] if len(found) == 1 else None

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        return _grouped((name.casefold(), file) for name, file in self.files.items())

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        images = [(name, file) for name, file in self.files.items() if name.casefold().endswith(IMAGE_SUFFIXES)]
        stems = ((stem, file) for name, file in images for stem in {_stem(name), str(id_of_file(name))})
        return _grouped(stems)


class ImageFinder:
    """Finds images under `root`. Each folder is listed once, however many images are looked up; no image is opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._roots = tuple({_slashed(str(root)), _slashed(os.path.realpath(root))})
        self._listings: dict[str, _Listing] = {}
        self._folders_of: dict[str, list[tuple[int, str]]] = {}

    def find(self, file_name: str, *, split: str, folder: Path | None, source: str) -> Path | Problem:
        """Return the path of the image that the caption file `source` calls `file_name`, or why it cannot be used.

        `folder` is where the image must be; without it, the folders that usually contain the images of `split` are
        tried.
        """
        parts = self._parts(file_name, source)
        if parts is None:
            detail = f"{source}: write it relative to {self.root}{self._elsewhere(file_name)}"
            return Problem("path outside the root", file_name, detail)
        ranked = [(_IN_OWN_FOLDER, str(folder))] if folder else self._folders(split)
        for inner in _spellings(parts, self.root.name):
            if found := self._in_folders(inner, ranked, split):
                return found
        looked = ", ".join(self._said(place) for _, place in ranked)
        web = "; it is a web address: download it" if re.match(r"(https?|s3|gs):", file_name) else ""
        return Problem("missing image", file_name, f"{source}: not in {looked}{web or self._elsewhere(file_name)}")

    def _parts(self, file_name: str, source: str) -> list[str] | None:
        """Return the path components relative to the root; None if the path leads outside it.

        A path that climbs out of the root is taken relative to the caption file, like ../images/1.jpg in annotations/.
        """
        path = _slashed(file_name)
        if path.startswith("/") or _DRIVE.match(path):
            inside = next((root for root in self._roots if path.startswith(root.rstrip("/") + "/")), None)
            return None if inside is None else _normal(path[len(inside) :].split("/"))
        parts = path.split("/")
        made = _normal(parts)
        return _normal([*source.split("/")[:-1], *parts]) if made is None else made

    def _in_folders(self, parts: Sequence[str], ranked: Sequence[tuple[int, str]], split: str) -> Path | None:
        *inner, name = parts or [""]
        name = unicodedata.normalize("NFC", name)
        for exact in (True, False):
            others: list[Path] = []
            for rank, place in ranked:
                listing = self._inner(place, inner, exact=exact)
                file = listing.files.get(name) if exact else listing.near(name)
                if file is None:
                    continue
                if rank < _ELSEWHERE or split != WHOLE:
                    return listing.path / file
                others.append(listing.path / file)
            if len(others) == 1:  # ambiguous if two split folders have the file
                return others[0]
        return None

    def _inner(self, place: str, inner: Sequence[str], *, exact: bool) -> _Listing:
        for name in inner:
            if not exact:
                there = self._list(place).folders
                alike = [folder for folder in there if folder.casefold() == name.casefold()]
                name = name if name in there or len(alike) != 1 else alike[0]
            place = f"{place}/{name}"
        return self._list(place)

    def _list(self, folder: str) -> _Listing:
        if folder not in self._listings:
            self._listings[folder] = self._scan(folder)
        return self._listings[folder]

    def _scan(self, folder: str) -> _Listing:
        listing = _Listing(Path(folder))
        try:
            entries = os.scandir(folder)
        except PermissionError as error:
            if folder == str(self.root):
                raise
            listing.closed = error.strerror or "closed"
            return listing
        except (OSError, ValueError):  # no such folder, or an invalid name
            return listing
        with entries:
            for entry in entries:
                link = entry.is_symlink()
                if os.path.isdir(entry.path) if link else entry.is_dir():  # noqa: PTH112 - never raises
                    listing.folders.append(entry.name)
                elif os.path.isfile(entry.path) if link else entry.is_file():  # noqa: PTH113
                    listing.files[unicodedata.normalize("NFC", entry.name)] = entry.name
        return listing

    def _folders(self, split: str) -> list[tuple[int, str]]:
        """Return where images of `split` may be: its own folder, image folders, the root, others.

        The likeliest first.
        """
        if split not in self._folders_of:
            root = str(self.root)
            outer = [name for name in self._list(root).folders if _rank((name,), split) is not None]
            inner = [(name, deeper) for name in outer for deeper in self._list(f"{root}/{name}").folders]
            ranked = [
                (_rank(names, split), "/".join((root, *names))) for names in [(), *((name,) for name in outer), *inner]
            ]
            self._folders_of[split] = sorted((rank, folder) for rank, folder in ranked if rank is not None)
        return self._folders_of[split]

    def _said(self, place: str) -> str:
        closed = self._list(place).closed
        return (place[len(str(self.root)) + 1 :] or ".") + "/" + (f" ({closed})" if closed else "")

    def _elsewhere(self, file_name: str) -> str:
        """Return message text saying where in the root a file of that name, ignoring its suffix, exists."""
        name = _slashed(file_name).rpartition("/")[2]
        places = self._whole_root.get(name.casefold()) or self._whole_root.get(_stem(name), [])
        if not name or not places:
            return ""
        more = ", ..." if len(places) > _PLACES_SAID else ""
        return f"; there is {', '.join(map(ascii, places[:_PLACES_SAID]))}{more}: correct the caption file, or move it"

    @cached_property
    def _whole_root(self) -> dict[str, list[str]]:
        """Return the images under the root, by lower-case name and by lower-case stem."""
        return _grouped((key, path) for path in islice(self._walk(), _MOST_LOOKED_AT) for key in _keys(path))

    def _walk(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inner = Path(folder).relative_to(self.root)
            yield from ((inner / name).as_posix() for name in names if name.casefold().endswith(IMAGE_SUFFIXES))


def _keys(path: str) -> set[str]:
    name = path.rpartition("/")[2]
    return {name.casefold(), _stem(name)}


def _stem(name: str) -> str:
    return os.path.splitext(name)[0].casefold()  # noqa: PTH122 - a Path would not take every name


def _slashed(path: str) -> str:
    return path.replace("\\", "/")


def _grouped(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    made: dict[str, list[str]] = defaultdict(list)
    for key, value in pairs:
        made[key].append(value)
    return dict(made)


def _normal(parts: Sequence[str]) -> list[str] | None:
    """Resolve "." and ".." and drop empty parts; None if they climb above the start."""
    made: list[str] = []
    for part in parts:
        if part == "..":
            if not made:
                return None
            made.pop()
        elif part not in ("", "."):
            made.append(part)
    return made


def _spellings(parts: list[str], root: str) -> Iterator[list[str]]:
    """Yield a path from the root, and the same path if it was written from the root's parent folder."""
    yield parts
    if len(parts) > 1 and parts[0] == root:
        yield parts[1:]


def _rank(names: tuple[str, ...], split: str) -> int | None:
    """Rank how likely a folder, given by its path from the root, has images of `split`: 0 most, None never."""
    ranks = [_rank_of_name(name, split) for name in names] or [_IN_ROOT]
    known = [rank for rank in ranks if rank is not None]
    return None if len(known) < len(ranks) else _IN_OWN_FOLDER if _IN_OWN_FOLDER in known else max(known)


def is_image_folder(name: str) -> bool:
    """Return whether a folder has a generic name for image folders: images, photos, train2017, ..."""
    return bool(_IMAGE_FOLDER.fullmatch(name) or _COCO_FOLDER.fullmatch(name) or _split_of_images(name))


def _rank_of_name(name: str, split: str) -> int | None:
    # "val/" is not searched for other splits, whose 1.jpg is another image; COCO's names are unique across its folders.
    # A dataset that states no splits may still have its images in such folders.
    coco = _COCO_FOLDER.fullmatch(name)
    of = split_of_file(name) if coco else split_of_folder(name) or _split_of_images(name)
    if of == split:
        return _IN_OWN_FOLDER
    if _IMAGE_FOLDER.fullmatch(name):
        return _IN_ANY_FOLDER
    return _ELSEWHERE if coco or (of and split == WHOLE) else None


def _split_of_images(name: str) -> str | None:
    """Return the split whose images a folder called train_images, images-val, TestSet, ... contains."""
    words = re.findall("[a-z]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())
    rest = [word for word in words if not split_of_folder(word)]
    kinds = ("set", "data", "pictures", "pics", "photos", "jpg", "jpgs", "resized")
    images = all(_IMAGE_FOLDER.fullmatch(word) or word in kinds or word.isdigit() for word in rest)
    return split_of_file(name) if len(rest) < len(words) and images else None
