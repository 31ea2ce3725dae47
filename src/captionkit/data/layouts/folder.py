"""A plain folder of images, at any depth; names that begin with a dot are skipped.

Captions may be in files beside the images, named like the files of a sample in a tar shard: a.txt or a.caption (one
caption per line) or a.json with a.jpg. If there are any, the images in train/, val/ and test/ belong to these splits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from captionkit.data.layouts.assemble import Place, StatedImage
from captionkit.data.layouts.caption_set import Problem, split_of_folder
from captionkit.data.layouts.caption_values import MAX_CAPTIONS, SIDECARS, TEXTS, captions_of_file
from captionkit.data.layouts.unsupported import way_out
from captionkit.utils.paths import IMAGE_SUFFIXES

LOOKS_FOR = "images (.jpg, .png, .webp, ...) at any depth, with or without captions beside them (.txt, .caption, .json)"
_CAPTION_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".token")
_NO_CAPTIONS = re.compile(r"read_?me|licen[cs]e|requirements|change_?log|notes|classes|labels", re.IGNORECASE)
_UNREAD = (
    "no captions of images were found in it; a table needs a header that names an image and a caption column, such as "
    'image,caption, and JSON a list of {"image", "caption"} or {"1.jpg": ["a caption"]}'
)


def detect(place: Place) -> list[Path]:
    """Return the folder itself if it contains an image."""
    found = (isinstance(item, str) and _is_image(item) for item in _walk(place.root))
    return [place.root] if not place.file and any(found) else []


def read(place: Place, files: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield every image, in the order of folder and file names; an image's id is its path from the root."""
    for root in files:
        items = list(_walk(root))
        beside = _Beside([item for item in items if isinstance(item, str)])
        for item in items:
            if isinstance(item, Problem):
                yield item
            elif _is_image(item):
                problems: list[Problem] = []
                captions = [text for name in beside.of(item) for text in _read(root, name, problems)]
                split = split_of_folder(item.split("/")[0]) if beside.used else None
                yield StatedImage(item, item, captions, split or "", root.name, root)
                yield from problems
        yield from _unread(root, [item for item in items if isinstance(item, str)], beside)


def texts(root: Path) -> list[str]:
    """Return the paths, relative to `root`, of the caption files of a folder that keeps its images elsewhere.

    Empty if an image lies in it too: captions are those beside images then.
    """
    items = [item for item in _walk(root) if isinstance(item, str)]
    return [] if any(map(_is_image, items)) else [item for item in items if _is_text(item)]


def read_texts(root: Path, names: Iterable[str]) -> Iterator[StatedImage | Problem]:
    """Yield the captions of each such file, under its path from the root, which names the absent image."""
    for name in names:
        problems: list[Problem] = []
        captions = _read(root, name, problems)
        yield StatedImage(name, name, captions, split_of_folder(name.split("/")[0]) or "", root.name, root)
        yield from problems


def unread(root: Path) -> Iterator[Problem]:
    """Yield a Problem for each file, at any depth, of an unsupported format that may contain captions."""
    return _of_other_kinds(root, (item for item in _walk(root) if isinstance(item, str)))


def images(root: Path) -> Iterator[str]:
    """Yield the paths, relative to `root`, of the images under it, in the order of folder and file names."""
    return (item for item in _walk(root) if isinstance(item, str) and _is_image(item))


class _Beside:
    """The caption files beside images."""

    def __init__(self, items: list[str]) -> None:
        texts = [item for item in items if item.casefold().endswith(SIDECARS)]
        images = [item for item in items if _is_image(item)]
        stems = {_stem(item) for item in images} | {item.casefold() for item in images}  # also a.jpg.txt
        self._files: dict[str, list[str]] = {}
        for item in texts:
            if _stem(item) in stems:
                self._files.setdefault(_stem(item), []).append(item)
        #: caption files that belong to an image
        self.used = {item for items in self._files.values() for item in items}

    def of(self, image: str) -> list[str]:
        """Return the caption file of an image: JSON before text, as in a shard."""
        found = self._files.get(_stem(image), []) + self._files.get(image.casefold(), [])
        return sorted(found, key=lambda item: not item.casefold().endswith(".json"))[:1]


def _read(root: Path, name: str, problems: list[Problem]) -> list[object]:
    path = root / name
    try:
        size = path.stat().st_size
        if size > MAX_CAPTIONS:
            raise ValueError(f"{size:,} bytes, but captions of an image may have {MAX_CAPTIONS:,}")
        return captions_of_file(path.read_bytes(), path.suffix.casefold())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        problems.append(Problem("malformed caption", name, f"{reason}; left out"))
        return []


def _unread(root: Path, items: list[str], beside: _Beside) -> Iterator[Problem]:
    yield from _of_other_kinds(root, items)
    yield from _elsewhere(root, items, beside)
    for item in items:
        lower, path = item.casefold(), root / item
        if _is_image(item) or item in beside.used or way_out(path):
            continue
        if lower.endswith(_CAPTION_SUFFIXES) or ("caption" in path.name.casefold() and lower.endswith(".txt")):
            yield Problem("unread file", item, _UNREAD)
        elif lower.endswith(SIDECARS if beside.used else ".caption") and not _NO_CAPTIONS.match(path.stem):
            yield Problem("caption without image", item, "no image of that name lies beside it")


def _of_other_kinds(root: Path, items: Iterable[str]) -> Iterator[Problem]:
    for item in items:
        if advice := way_out(root / item):
            yield Problem("unread file", item, f"{Path(item).suffix} is not read; {advice}")


def _elsewhere(root: Path, items: list[str], beside: _Beside) -> Iterator[Problem]:
    """Report, once each, the folders of texts named like images in other folders."""
    images = {_stem(item).rpartition("/")[2]: item for item in items if _is_image(item)}
    said: set[str] = set()
    for item in items:
        place, _, name = item.rpartition("/")
        image = images.get(_stem(name))
        if place in said or image is None or item in beside.used or not item.casefold().endswith(TEXTS):
            continue
        said.add(place)
        if _read(root, item, []):  # not object boxes, which are often stored like this
            detail = f"called as the image {image} is, but captions are read beside their image: move them there"
            yield Problem("unread file", item, detail)


def _is_image(item: str) -> bool:
    return item.casefold().endswith(IMAGE_SUFFIXES)


def _is_text(item: str) -> bool:
    name = item.rpartition("/")[2]
    return name.casefold().endswith(TEXTS) and not _NO_CAPTIONS.match(name)


def _stem(item: str) -> str:
    return os.path.splitext(item)[0].casefold()  # noqa: PTH122 - keeps the folders


def _walk(root: Path) -> Iterator[str | Problem]:
    """Yield the paths, relative to `root`, of all files under it, following links; folders not entered become Problems.

    A linked folder that is read anyway, or was read already, is skipped: links can form a loop.
    """
    closed: list[OSError] = []
    real_root = os.path.realpath(root)
    entered = {real_root}
    for folder, folders, names in os.walk(root, onerror=closed.append, followlinks=True):
        within = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
        kept = []
        for name in sorted(name for name in folders if not name.startswith(".")):
            real = os.path.realpath(Path(folder, name))
            direct = real == str(Path(real_root, within, name))
            if real in entered or (not direct and Path(real).is_relative_to(real_root)):
                yield Problem("linked folder", within + name, "leads to a folder that is read already")
            else:
                entered.add(real)
                kept.append(name)
        folders[:] = kept
        for name in sorted(names):
            if not name.startswith("."):
                yield within + name
    for error in closed:
        yield Problem("unreadable folder", os.path.relpath(error.filename, root), f"{error.strerror}")
