"""The division of an input into parts: by place in the listing alone, whatever does the work, wherever it is done."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from captionkit.bulk.items import Item
from captionkit.errors import CaptionkitError

_SHARD = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class Part:
    """Consecutive images of the input: part `index` of a run. `digest` tells them from other images."""

    index: int
    items: tuple[Item, ...]
    digest: str


@dataclass(frozen=True)
class Shard:
    """The share of one machine: every part whose index is `number` - 1 modulo `of`."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/8". Raises CaptionkitError."""
        found = _SHARD.fullmatch(text)
        if not found or int(found[1]) > int(found[2]):
            raise CaptionkitError(f"--shard is {text!r}; write a share's number and how many there are, such as 2/8")
        return cls(int(found[1]), int(found[2]))

    def has(self, part: int) -> bool:
        """Return whether a part belongs to this share."""
        return part % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parts(items: Iterable[Item], size: int) -> Iterator[Part]:
    """Yield the parts of an input, of `size` images each but for the last."""
    waiting = iter(items)
    index = 0
    while chosen := tuple(islice(waiting, size)):
        yield Part(index, chosen, digest(chosen))
        index += 1


def digest(items: Iterable[Item]) -> str:
    """Return 16 hexadecimal digits that stand for the ids and sizes of images, in order."""
    lines = "".join(json.dumps([item.id, item.size]) + "\n" for item in items)
    return hashlib.sha256(lines.encode("ascii")).hexdigest()[:16]


class Census:
    """How many images an input has, and a digest of all; filled part by part."""

    def __init__(self) -> None:
        self.images = 0
        self._digest = hashlib.sha256()

    def add(self, part: Part) -> None:
        """Count a part, the next in order."""
        self.images += len(part.items)
        self._digest.update(part.digest.encode("ascii"))

    @property
    def digest(self) -> str:
        """Return 16 hexadecimal digits that stand for all parts so far."""
        return self._digest.hexdigest()[:16]
