"""From the entries that a layout reads to a checked dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from captionkit.data.layouts.caption_set import Dataset, Example, Problem, normalize_split, split_of_folder, whole
from captionkit.data.layouts.caption_values import checked_captions
from captionkit.data.layouts.image_finder import ImageFinder
from captionkit.errors import DatasetError
from captionkit.utils import paths
from captionkit.utils.archive import ArchiveMember
from captionkit.utils.paths import IMAGE_SUFFIXES

# Folders whose caption files belong to the dataset one level up.
_TEXT_FOLDERS = ("annotations", "flickr8k_text")

_NUMBER = re.compile("[0-9]{1,18}")
_FROM_HERE = re.compile(r"^(\.[/\\]+)+")


@dataclass(frozen=True)
class Place:
    """The user's path: the folder `root`, or the caption file `file` of the dataset in that folder."""

    root: Path
    file: Path | None = None

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Place:
        """Resolve a path. Raises DatasetError if there is nothing at `path`."""
        kind = paths.kind_of(path, DatasetError)
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
        if kind == "folder":
            return cls(absolute)
        if kind is None:
            raise DatasetError(f"{paths.shown(path)}: no such file or folder")
        paths.check_file(path, DatasetError)
        folder = absolute.parent
        return cls(folder.parent if folder.name.casefold() in _TEXT_FOLDERS else folder, absolute)

    def files(self, *patterns: str) -> list[Path]:
        """Return the given caption file, or those of the folder, whose names match a pattern (case-insensitive)."""
        named = [(self.file.parent, [self.file.name])] if self.file else self._names
        fitting = (
            folder / name
            for folder, names in named
            for name in names
            if any(fnmatchcase(name.casefold(), pattern) for pattern in patterns)
        )
        return [file for file in fitting if file.is_file()]

    @cached_property
    def _names(self) -> list[tuple[Path, list[str]]]:
        inner = [
            folder for folder in self.root.iterdir() if folder.name.casefold() in _TEXT_FOLDERS and folder.is_dir()
        ]
        return [(folder, _names_but_images(folder)) for folder in (self.root, *sorted(inner))]

    def split_folders(self, *inside: str) -> list[Path]:
        """Return the split folders (train, val, validation, ...) in the root and in its folders `inside`, by path."""
        parents = [self.root, *(self.root / name for name in inside)]
        named = (f for parent in parents if parent.is_dir() for f in parent.iterdir() if split_of_folder(f.name))
        return sorted(folder for folder in named if folder.is_dir())

    def name(self, file: Path) -> str:
        """Return a caption file's path relative to the root, for messages."""
        return file.relative_to(self.root).as_posix()


@dataclass(frozen=True, slots=True)
class StatedImage:
    """One image as a caption file states it, before any checks.

    source: the file that states it, for messages. folder: the folder that must contain the image, if the layout fixes
        it. member: the image itself, in layouts that keep images in an archive. label: the class of the image, if
        known.
    """

    id: int | str
    file_name: str
    captions: Sequence[object]
    split: str
    source: str
    folder: Path | None = None
    member: ArchiveMember | None = None
    label: str = ""


class CaptionRow(NamedTuple):
    """One row of a table: an image and some of its captions as stated; split and label are "" if not given."""

    image: str
    captions: list[object]
    split: str
    label: str = ""


def by_image(rows: Iterable[CaptionRow | Problem], source: str) -> Iterator[StatedImage | Problem]:
    """Join the rows that name the same image; images in the order of their first rows.

    An image's id is that name, or an integer if the name consists of digits only.
    """
    images: dict[tuple[str, str], list[object]] = {}
    firsts: dict[tuple[str, str], CaptionRow] = {}
    for row in rows:
        if isinstance(row, Problem):
            yield row
        else:
            first = firsts.setdefault((row.split, _here(row.image)), row)
            images.setdefault((row.split, first.image), []).extend(row.captions)
    for (split, image), captions in images.items():
        name = whole(image)
        known = int(name) if _NUMBER.fullmatch(name) else image
        yield StatedImage(known, name, captions, split, source, label=firsts[split, _here(image)].label)


def _here(path: str) -> str:
    """Strip a leading ./ from a path."""
    return _FROM_HERE.sub("", path)


def assemble(place: Place, layout: str, stated: Iterable[StatedImage | Problem]) -> Dataset:
    """Check the entries of a layout's reader and build the dataset of the usable ones; the rest become its problems."""
    finder = ImageFinder(place.root)
    problems: list[Problem] = []
    splits: dict[str, dict[str, Example]] = {}
    named: dict[tuple[str, Path], int | str] = {}
    for entry in stated:
        if isinstance(entry, Problem):
            problems.append(entry)
            continue
        split = normalize_split(entry.split)
        examples = splits.setdefault(split, {})
        if first := examples.get(str(entry.id)):
            detail = f"{entry.source}: id {entry.id} is {first.name} already; this entry is left out"
            problems.append(Problem("duplicate id", entry.file_name, detail))
            continue
        image = entry.member or finder.find(entry.file_name, split=split, folder=entry.folder, source=entry.source)
        if isinstance(image, Problem):
            left_out = f" (captions left out: {len(entry.captions)})" if entry.captions else ""
            problems.append(Problem(image.kind, image.where, image.detail + left_out))
        else:
            captions, wrong = checked_captions(entry.captions, entry.file_name, entry.source)
            problems += wrong
            examples[str(entry.id)] = Example(entry.id, image, captions, entry.label)
            first_id = named.setdefault((split, image), entry.id) if isinstance(image, Path) else entry.id
            if first_id != entry.id:
                detail = f"{entry.source}: is the image of id {first_id}, too; kept as two, which count as two"
                problems.append(Problem("duplicate image", entry.file_name, detail))
    for examples in splits.values():
        problems += _without_caption(examples.values())
    return Dataset(place.root, layout, {name: list(examples.values()) for name, examples in splits.items()}, problems)


def _names_but_images(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.casefold().endswith(IMAGE_SUFFIXES))


def _without_caption(examples: Iterable[Example]) -> list[Problem]:
    bare = [example for example in examples if not example.captions]
    if not any(example.captions for example in examples):  # an unlabelled split, to be captioned
        return []
    return [Problem("image without caption", example.name, "kept, though it has no caption") for example in bare]
