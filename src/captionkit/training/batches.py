"""Batches: pictures stacked, captions packed without padding, in an order that seed and epoch decide."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captionkit.models.decoder import Packed
from captionkit.training.recipe import Recipe
from captionkit.training.teaching import ORDER, Sample, Teaching

#: (pass, index) of each picture of a batch
Keys = list[tuple[int, int]]
#: batches that each thread prepares ahead
_AHEAD = 4


class Batch(NamedTuple):
    """Pictures, or the features made of them, with their captions packed (see `Packed`)."""

    images: Tensor | None  # [B,3,H,W]
    features: Tensor | None  # [B,G,D]
    captions: Packed
    targets: Tensor  # [P]: the word after each of captions.tokens
    broken: list[str]  # pictures that could not be read, with the reason
    indices: tuple[int, ...] = ()  # the place in the split of each picture, [B]

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        tokens, sizes, image_of = self.captions
        return Batch(
            None
            if self.images is None
            else self.images.to(device, non_blocking=True, memory_format=torch.channels_last),
            None if self.features is None else self.features.to(device, non_blocking=True),
            Packed(tokens.to(device), sizes, image_of.to(device)),
            self.targets.to(device),
            self.broken,
            self.indices,
        )


def collate(samples: Sequence[Sample], *, features: bool) -> Batch:
    """Stack pictures and pack captions, longest first; pictures that could not be read are left out and named.

    Without a readable picture the batch has no captions, and neither images nor features.
    """
    good = [sample for sample in samples if sample.picture is not None]
    captions = [(caption, row) for row, sample in enumerate(good) for caption in sample.captions]
    captions.sort(key=lambda pair: -len(pair[0]))
    steps = max((len(caption) for caption, _ in captions), default=1) - 1
    columns = [[caption[t : t + 2] for caption, _ in captions if len(caption) > t + 1] for t in range(steps)]
    flat = torch.tensor([pair for column in columns for pair in column], dtype=torch.long).reshape(-1, 2)  # [P,2]
    stacked = torch.from_numpy(np.stack([s.picture for s in good])).float() if good else None
    return Batch(
        None if features else stacked,
        stacked if features else None,
        Packed(flat[:, 0].contiguous(), [len(c) for c in columns], torch.tensor([row for _, row in captions])),
        flat[:, 1].contiguous(),
        [sample.broken for sample in samples if sample.picture is None],
    )


class Plan:
    """The order of a run: step number -> pass and pictures, cut into parts for accumulation and processes.

    A pass goes over all pictures once; an epoch is one pass, or as many as its fewest steps take.
    Steps are the same for any number of parts and processes; where a step has fewer pictures than those, some of its
    parts are empty.
    """

    def __init__(self, pictures: int, recipe: Recipe, *, processes: int = 1, rank: int = 0) -> None:
        self.pictures, self.recipe, self.rank, self.processes = pictures, recipe, rank, processes
        self.parts = recipe.optimizer.accumulate
        self.steps_per_pass = -(-pictures // recipe.optimizer.batch_size)
        self.passes = -(-recipe.optimizer.epoch_steps // self.steps_per_pass)
        self.steps_per_epoch = self.passes * self.steps_per_pass
        self.steps = recipe.optimizer.epochs * self.steps_per_epoch

    def pictures_of(self, step: int) -> tuple[int, np.ndarray]:
        """The pass of a step, counted from the start of the run, and the indices of all its pictures."""
        number, place = divmod(step, self.steps_per_pass)
        order = np.random.default_rng((self.recipe.run.seed, ORDER, number)).permutation(self.pictures)
        size = self.recipe.optimizer.batch_size
        return number, order[place * size : (place + 1) * size]

    def keys(self, start: int) -> Iterator[Keys]:
        """This process' share of every part of every step from `start` on."""
        for step in range(start, self.steps):
            number, indices = self.pictures_of(step)
            for part in np.array_split(indices, self.parts * self.processes)[self.rank :: self.processes]:
                yield [(number, int(index)) for index in part]


def batches(teaching: Teaching, plan: Plan, start: int, workers: int) -> Generator[Batch, None, None]:
    """Batches of this process from step `start` to the end of the run, prepared ahead by `workers` threads."""
    return _prepared(teaching, plan.keys(start), workers)


def whole(teaching: Teaching, size: int, rank: int, processes: int, workers: int) -> Generator[Batch, None, None]:
    """Every picture of a split once, without augmentation: this process' share, `size` pictures at a time."""
    mine = range(rank, len(teaching), processes)
    starts = range(0, len(mine), size)
    return _prepared(teaching, ([(0, i) for i in mine[start : start + size]] for start in starts), workers)


def _prepared(teaching: Teaching, keys: Iterator[Keys], workers: int) -> Generator[Batch, None, None]:
    """The batches that `keys` name, in their order. Closing it drops what is prepared ahead."""
    if not workers:
        yield from (_prepare(teaching, part) for part in keys)
        return
    # Threads, since Pillow and numpy let go of the interpreter: a picture takes little of it, and nothing is copied.
    pool = ThreadPoolExecutor(workers, thread_name_prefix="captionkit-pictures")
    try:
        waiting = deque(pool.submit(_prepare, teaching, part) for part in islice(keys, _AHEAD * workers))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(_prepare, teaching, part) for part in islice(keys, 1))
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _prepare(teaching: Teaching, part: Keys) -> Batch:
    samples = [teaching[key] for key in part]
    read = tuple(index for (_, index), sample in zip(part, samples, strict=True) if sample.picture is not None)
    return collate(samples, features=teaching.features is not None)._replace(indices=read)
