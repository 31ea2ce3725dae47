"""The order of pictures that lie in shards: shuffled, and yet read nearly from end to end."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

from captionkit.datasets import Example
from captionkit.files import Member

#: shards that are read side by side, and how many of their pictures are shuffled at a time
_SIDE_BY_SIDE, _WINDOW = 8, 4096


def shards_of(examples: Sequence[Example]) -> list[Path] | None:
    """The shard that each picture lies in; None if not all lie in shards."""
    shards = [example.image.archive for example in examples if isinstance(example.image, Member)]
    return shards if len(shards) == len(examples) else None


def numbered(shards: Sequence[Hashable]) -> np.ndarray:
    """The shard of each picture by its number, [N], in the order in which they first occur."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(shard, len(numbers)) for shard in shards])


def nearly_in_order(shard_of: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The places of pictures in the shards `shard_of` [N], shuffled [N]: a few random shards at a time, side by side,
    each from a random place on and round to it.

    Within that, a picture is moved by at most `_WINDOW` places, and fewer pictures than that are shuffled as a whole.
    """
    order = np.argsort(shard_of, kind="stable")
    shards = np.split(order, np.flatnonzero(np.diff(shard_of[order])) + 1)
    groups = np.array_split(generator.permutation(len(shards)), -(-len(shards) // _SIDE_BY_SIDE))
    found = []
    for group in groups:
        indices = np.concatenate([shards[number] for number in group])
        through = [(np.arange(n) + generator.integers(n)) % n / n for n in (len(shards[number]) for number in group)]
        share = _WINDOW / len(indices)
        moved = generator.random(len(indices)) * share
        found.append(indices[np.argsort(moved if share >= 1 else np.concatenate(through) + moved, kind="stable")])
    return np.concatenate(found)
