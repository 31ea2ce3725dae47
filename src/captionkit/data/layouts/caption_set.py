"""Common types of all layouts: examples, caption sets, datasets, and problems found while reading."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, overload

from captionkit.errors import DatasetError
from captionkit.utils.archive import ArchiveMember

# Karpathy's "restval" is the part of COCO's validation images that is used for training.
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
WHOLE = "all"  # the only split of a dataset without splits

_COCO_NAME = re.compile(r"(?:COCO_\w+_)?([0-9]{1,18})")
_WHOLE = re.compile(r"(-?[0-9]{1,18})\.0*")
_EXACT = 2**53  # up to here a float represents every integer exactly


@dataclass(frozen=True, slots=True)
class Example:
    """An image, as a path, a member of an archive or the bytes of a file, and its reference captions (none to many).

    label: the class name of the image, if known, in lower-case words; else empty.
    """

    id: int | str
    image: Path | ArchiveMember | bytes
    captions: tuple[str, ...]
    label: str = ""

    @property
    def name(self) -> str:
        """Return the image's file name, or its id if it has no file of its own."""
        return str(self.id) if isinstance(self.image, bytes) else self.image.name


@dataclass(frozen=True)
class Problem:
    """Something in a dataset that could not be used as is: its kind, the image or line, and what is wrong."""

    kind: str
    where: str
    detail: str


@dataclass(frozen=True, repr=False)
class CaptionSet(Sequence[Example]):
    """One split of a dataset: examples in the order of its files. `name` is the dataset's, `split` the split's."""

    name: str
    split: str
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> CaptionSet: ...
    def __getitem__(self, index: int | slice) -> Example | CaptionSet:
        if isinstance(index, slice):
            return CaptionSet(self.name, self.split, self.examples[index])
        return self.examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __repr__(self) -> str:
        return f"CaptionSet({self.name!r}, {self.split!r}, {len(self)} images)"

    def fingerprint(self) -> str:
        """Return the hex SHA-256 of ids, file names and captions, in order; independent of the folder's location."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(json.dumps([example.id, example.name, example.captions]).encode("ascii") + b"\n")
        return digest.hexdigest()

    def subset(self, indices: Iterable[int]) -> CaptionSet:
        """Return the examples at `indices`, in that order."""
        return CaptionSet(self.name, self.split, tuple(self.examples[i] for i in indices))

    def split_off(self, fraction: float, seed: int) -> tuple[CaptionSet, CaptionSet]:
        """Split this set into (rest, held out), named "train" and "val", each in this set's order.

        `fraction` of the images, at least one, is held out; the choice depends on `seed` and the ids only, so it is the
        same on every machine. Raises DatasetError if one side would be empty.
        """
        count = max(1, round(fraction * len(self))) if 0 < fraction < 1 else 0
        if not 0 < count < len(self):
            raise DatasetError(
                f"{self.name}: cannot hold out {fraction} of {len(self)} images; "
                "take a fraction between 0 and 1 that leaves images on both sides"
            )
        ranks = [hashlib.sha256(f"{seed}:{example.id!a}".encode()).digest() for example in self.examples]
        held = set(sorted(range(len(self)), key=ranks.__getitem__)[:count])
        rest = tuple(example for index, example in enumerate(self.examples) if index not in held)
        held_out = tuple(self.examples[index] for index in sorted(held))
        return CaptionSet(self.name, "train", rest), CaptionSet(self.name, "val", held_out)


class Dataset(Mapping[str, CaptionSet]):
    """The caption sets of a dataset by split name ("train", "val", "test", other names as stated; else "all").

    Attributes: root (the folder that paths in its caption files must stay inside), layout (the name of its layout),
        problems. A split without usable images is present but empty.
    """

    def __init__(
        self, root: Path, layout: str, splits: Mapping[str, Sequence[Example]], problems: list[Problem]
    ) -> None:
        self.root = root
        self.layout = layout
        self.problems = problems
        first = [name for name in ("train", "val", "test") if name in splits]
        order = [*first, *(name for name in splits if name not in first)]
        self._sets = {name: CaptionSet(root.name, name, tuple(splits[name])) for name in order}

    def __getitem__(self, split: str) -> CaptionSet:
        return self._sets[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {len(examples)} images" for name, examples in self.items())
        return f"Dataset({str(self.root)!r}, {self.layout}, {splits}, {len(self.problems)} problems)"

    def split(self, name: str) -> CaptionSet:
        """Return the split of that name ("validation" and "dev" are "val").

        Raises DatasetError if it is missing or empty.
        """
        chosen = self._sets.get(normalize_split(name))
        if chosen is None:
            there = ", ".join(f"{split} ({len(examples)} images)" for split, examples in self.items())
            raise DatasetError(f"{self.root}: there is no split {name!r}; there is {there}")
        if not chosen:
            kinds = ", ".join(f"{count} x {kind}" for kind, count in Counter(p.kind for p in self.problems).items())
            raise DatasetError(
                f"{self.root}: no image of split {name!r} can be used ({kinds}); `captionkit inspect` names them"
            )
        return chosen


def normalize_split(name: object) -> str:
    """Return a split's canonical name: "validation" -> "val"; safe as part of a file name; "all" if there is none."""
    text = re.sub(r"[^\w-]+", "_", str(name or "").strip().casefold()).strip("_")
    return _SPLIT_NAMES.get(text, text or WHOLE)


def split_of_folder(name: str) -> str | None:
    """Return the split of a folder called exactly "train", "validation", ...; else None."""
    return _SPLIT_NAMES.get(name.casefold())


def split_of_file(stem: str) -> str | None:
    """Return the split named in a file name: "captions_val2017" -> "val", "Flickr_8k.trainImages" -> "train"."""
    words = re.findall("[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).casefold())
    return next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), None)


def is_id(value: object) -> bool:
    """Return whether `value` can be an image id: an int or a non-empty string."""
    return type(value) is int or (isinstance(value, str) and value != "")


def whole(value: Any) -> Any:
    """Convert an integer id that was read as a float, as pandas reads a column with missing values, back to an integer.

    1.0 becomes 1 and "1.0" becomes "1"; anything else is returned unchanged.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    if isinstance(value, str) and (number := _WHOLE.fullmatch(value)):
        return number[1]
    return value


def base_name(path: str) -> str:
    """Return the part after the last slash of a POSIX or Windows path."""
    return re.split(r"[/\\]", path)[-1]


def id_of_file(name: str) -> int | str:
    """Return the image id in a file name, as COCO names files: 000000000042.jpg is 42, dog.jpg is "dog"."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    number = _COCO_NAME.fullmatch(stem)
    return int(number[1]) if number else stem
