"""The sampler: which images each step takes, in an order given by seed and epoch."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from captionkit.data.layouts import Example
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.random_streams import MIX, ORDER, round_robin
from captionkit.utils.archive import ArchiveMember

#: (turn, index) of each image of a batch
Keys = list[tuple[int, int]]


class EpochSampler:
    """Maps a step to its images and their turns, split into micro-batches for gradient accumulation and ranks.

    A pass shows each image once, or as often as its weight says; an epoch is one pass, or as many as are needed for the
    minimum number of steps. The images of a step do not depend on the number of micro-batches and processes; if a step
    has fewer images than those, some parts are empty. `images` is the number of images, or one number per dataset,
    weighted by `data.weights`. `shards` names the shard of each image if the images are stored in shards; they are then
    shuffled so that shards are read almost sequentially.
    """

    def __init__(
        self,
        images: int | Sequence[int],
        recipe: Recipe,
        *,
        processes: int = 1,
        rank: int = 0,
        shards: Sequence[Hashable] | None = None,
    ) -> None:
        self.recipe, self.rank, self.processes = recipe, rank, processes
        self.datasets = (images,) if isinstance(images, int) else tuple(images)
        weights = recipe.data.weights or (1.0,) * len(self.datasets)
        #: images of each dataset in a pass, repetitions included
        self.shown = [max(1, round(n * weight)) for n, weight in zip(self.datasets, weights, strict=True)]
        self._shards = numbered(shards) if shards else None
        self.parts = recipe.trainer.gradient_accumulation_steps
        self.steps_per_pass = -(-sum(self.shown) // recipe.trainer.batch_size)
        self.passes = -(-recipe.trainer.min_steps_per_epoch // self.steps_per_pass)
        self.steps_per_epoch = self.passes * self.steps_per_pass
        self.steps = recipe.trainer.epochs * self.steps_per_epoch
        self._pass = lru_cache(maxsize=2)(self._shuffled)  # the current pass, and the one prepared ahead

    def images_of(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the turns (how often each image was shown before) and indices of all images of a step."""
        number, place = divmod(step, self.steps_per_pass)
        size = self.recipe.trainer.batch_size
        turns, indices = self._pass(number)
        return turns[place * size : (place + 1) * size], indices[place * size : (place + 1) * size]

    def _shuffled(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the turns and indices of all images of a pass, in shuffled order."""
        seed, start, turns, indices = self.recipe.trainer.seed, 0, [], []
        for dataset, (many, some) in enumerate(zip(self.datasets, self.shown, strict=True)):
            taken, before = round_robin((seed, MIX, dataset), many, some, number)
            order = np.lexsort((taken, before))
            turns.append(before[order])
            indices.append(start + taken[order])
            start += many
        generator, shown = np.random.default_rng((seed, ORDER, number)), np.concatenate(indices)
        if self._shards is None:
            order = generator.permutation(len(shown))
        else:
            order = shard_shuffle(self._shards[shown], generator)
        return np.concatenate(turns)[order], shown[order]

    def micro_batches_of(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the turns and indices of the images of each part of a step, over all processes."""
        cut = (np.array_split(values, self.parts * self.processes) for values in self.images_of(step))
        return list(zip(*cut, strict=True))

    def keys(self, start: int) -> Iterator[Keys]:
        """Yield this process's share of every micro-batch of every step from `start` on."""
        for step in range(start, self.steps):
            for turns, indices in self.micro_batches_of(step)[self.rank :: self.processes]:
                yield list(zip(turns.tolist(), indices.tolist(), strict=True))


#: shards that are read concurrently, and size of the shuffle window in images
_SIDE_BY_SIDE, _WINDOW = 8, 4096


def shards_of(examples: Sequence[Example]) -> list[Path] | None:
    """Return the shard of each image; None if not all images are stored in shards."""
    shards = [example.image.archive for example in examples if isinstance(example.image, ArchiveMember)]
    return shards if len(shards) == len(examples) else None


def numbered(shards: Sequence[Hashable]) -> np.ndarray:
    """Return the shard number of each image, [N]; shards are numbered in order of first occurrence."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(shard, len(numbers)) for shard in shards])


def shard_shuffle(shard_of: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Shuffle the indices of images in the shards `shard_of` [N], reading a few random shards concurrently -> [N].

    Each shard is read from a random offset to the end and then from its start up to the offset. On top of that, an
    image is displaced by at most `_WINDOW` positions; groups with fewer images than that are shuffled as a whole.
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
