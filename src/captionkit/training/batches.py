"""Batches: pictures stacked, captions packed without padding, in an order that seed and epoch decide."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captionkit.datasets import Example
from captionkit.files import Member
from captionkit.models.decoder import Packed
from captionkit.training.recipe import Recipe
from captionkit.training.teaching import ORDER, Sample, Teaching

#: (epoch, index) of each picture of a batch
Keys = list[tuple[int, int]]
#: pictures that a thread prepares at a time, and such portions a thread that are prepared ahead
_PORTION, _AHEAD = 4, 4
#: the most threads that "one a core" means: what a process gets out of more, its interpreter's lock eats
_MOST = 16
#: shards that are read side by side, and how many of their pictures are shuffled at a time
_SIDE_BY_SIDE, _WINDOW = 8, 4096


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
            Packed(tokens.to(device, non_blocking=True), sizes, image_of.to(device, non_blocking=True)),
            self.targets.to(device, non_blocking=True),
            self.broken,
            self.indices,
        )

    def pinned(self) -> Batch:
        """The batch in memory that a GPU copies from while both go on."""
        parts = [None if part is None else part.pin_memory() for part in (self.images, self.features, self.targets)]
        tokens, sizes, image_of = self.captions
        captions = Packed(tokens.pin_memory(), sizes, image_of.pin_memory())
        return self._replace(images=parts[0], features=parts[1], targets=parts[2], captions=captions)


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
    """The order of a run: step number -> epoch and pictures, cut into parts for accumulation and processes.

    Steps are the same for any number of parts and processes; where a step has fewer pictures than those, some of its
    parts are empty. `shards` names the shard of each picture, where the pictures lie in shards: then they are shuffled
    so that those are read nearly from end to end.
    """

    def __init__(
        self,
        pictures: int,
        recipe: Recipe,
        *,
        processes: int = 1,
        rank: int = 0,
        shards: Sequence[Hashable] | None = None,
    ) -> None:
        self.pictures, self.recipe, self.rank, self.processes = pictures, recipe, rank, processes
        self._shards = _places(shards) if shards else None
        self._order_of = lru_cache(2)(self._order)  # of a million pictures, it takes a while to make
        self.parts = recipe.optimizer.accumulate
        self.steps_per_epoch = -(-pictures // recipe.optimizer.batch_size)
        self.steps = recipe.optimizer.epochs * self.steps_per_epoch

    def pictures_of(self, step: int) -> tuple[int, np.ndarray]:
        """The epoch of a step and the indices of all its pictures."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order_of(epoch)
        size = self.recipe.optimizer.batch_size
        return epoch, order[place * size : (place + 1) * size]

    def _order(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng((self.recipe.run.seed, ORDER, epoch))
        if self._shards is None:
            return generator.permutation(self.pictures)
        return _nearly_in_order(self._shards, generator)

    def parts_of(self, step: int) -> tuple[int, list[np.ndarray]]:
        """The epoch of a step and the indices of the pictures of each of its parts, over all processes."""
        epoch, indices = self.pictures_of(step)
        return epoch, np.array_split(indices, self.parts * self.processes)

    def keys(self, start: int) -> Iterator[Keys]:
        """This process' share of every part of every step from `start` on."""
        for step in range(start, self.steps):
            epoch, parts = self.parts_of(step)
            for part in parts[self.rank :: self.processes]:
                yield [(epoch, int(index)) for index in part]


def shards_of(examples: Sequence[Example]) -> list[Path] | None:
    """The shard that each picture lies in; None if not all lie in shards."""
    shards = [example.image.archive for example in examples if isinstance(example.image, Member)]
    return shards if len(shards) == len(examples) else None


def _places(shards: Sequence[Hashable]) -> list[np.ndarray]:
    """The indices of the pictures of each shard."""
    places: dict[Hashable, list[int]] = {}
    for index, shard in enumerate(shards):
        places.setdefault(shard, []).append(index)
    return [np.array(indices) for indices in places.values()]


def _nearly_in_order(shards: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """All indices, shuffled: a few random shards at a time, each from a random place on and round to it, side by side.

    Within that, a picture is moved by at most `_WINDOW` places, and fewer pictures than that are shuffled as a whole.
    """
    groups = np.array_split(generator.permutation(len(shards)), -(-len(shards) // _SIDE_BY_SIDE))
    order = []
    for group in groups:
        indices = np.concatenate([shards[number] for number in group])
        through = [(np.arange(n) + generator.integers(n)) % n / n for n in (len(shards[number]) for number in group)]
        share = _WINDOW / len(indices)
        moved = generator.random(len(indices)) * share
        order.append(indices[np.argsort(moved if share >= 1 else np.concatenate(through) + moved, kind="stable")])
    return np.concatenate(order)


def batches(
    teaching: Teaching, plan: Plan, start: int, workers: int, *, pin: bool = False
) -> Generator[Batch, None, None]:
    """Batches of this process from step `start` to the end of the run, prepared ahead by `workers` threads.

    `workers` of -1 is a thread a core; see `_threads`. `pin` puts them where a GPU copies them from by itself.
    """
    return _prepared(teaching, plan.keys(start), workers, pin)


def whole(
    teaching: Teaching, size: int, rank: int, processes: int, workers: int, *, pin: bool = False
) -> Generator[Batch, None, None]:
    """Every picture of a split once, without augmentation: this process' share, `size` pictures at a time."""
    mine = range(rank, len(teaching), processes)
    starts = range(0, len(mine), size)
    return _prepared(teaching, ([(0, i) for i in mine[start : start + size]] for start in starts), workers, pin)


def _prepared(teaching: Teaching, keys: Iterator[Keys], workers: int, pin: bool) -> Generator[Batch, None, None]:
    """The batches that `keys` name, in their order. Closing it drops what is prepared ahead."""
    if not workers:
        yield from (_joined([_samples(teaching, part)], part, teaching, pin) for part in keys)
        return
    threads = _threads(workers)
    # Threads, since Pillow and numpy let go of the interpreter: a picture takes little of it, and nothing is copied.
    pool = ThreadPoolExecutor(threads, thread_name_prefix="captionkit-pictures")
    joiner = ThreadPoolExecutor(1, thread_name_prefix="captionkit-pictures-joined")

    def begin(part: Keys) -> Future[Batch]:
        portions = [part[start : start + _PORTION] for start in range(0, len(part), _PORTION)]
        begun = [pool.submit(_samples, teaching, portion) for portion in portions]
        return joiner.submit(lambda: _joined([future.result() for future in begun], part, teaching, pin))

    waiting: deque[tuple[int, Future[Batch]]] = deque()
    try:
        while True:
            # What is ahead is bounded in pictures, whatever a batch is: enough for all threads, and a batch.
            while not waiting or sum(pictures for pictures, _ in waiting) < _ahead(threads):
                part = next(keys, None)
                if part is None:
                    break
                waiting.append((max(1, len(part)), begin(part)))
            if not waiting:
                return
            yield waiting.popleft()[1].result()
    finally:
        for executor in (pool, joiner):
            executor.shutdown(wait=False, cancel_futures=True)


def pictures_ahead(workers: int, batch: int) -> int:
    """The most pictures that `batches` holds in memory before they are wanted, of batches of so many pictures."""
    return _ahead(_threads(workers)) + batch if workers else 0


def _ahead(threads: int) -> int:
    return threads * _AHEAD * _PORTION


def _threads(workers: int) -> int:
    """The number itself; for -1, one a core that this process may use, the machine's processes sharing them."""
    if workers >= 0:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _samples(teaching: Teaching, part: Keys) -> list[Sample]:
    return [teaching[key] for key in part]


def _joined(portions: list[list[Sample]], part: Keys, teaching: Teaching, pin: bool) -> Batch:
    samples = [sample for portion in portions for sample in portion]
    read = tuple(index for (_, index), sample in zip(part, samples, strict=True) if sample.picture is not None)
    batch = collate(samples, features=teaching.features is not None)._replace(indices=read)
    return batch.pinned() if pin else batch
