"""Batches: pictures stacked, captions packed without padding, in an order that seed and epoch decide."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captionkit.models.decoder import Packed
from captionkit.training.losses import Soft
from captionkit.training.recipe import Recipe
from captionkit.training.shuffling import nearly_in_order, numbered
from captionkit.training.teaching import MIX, ORDER, Sample, Teaching
from captionkit.training.turns import in_turn

#: (turn, index) of each picture of a batch
Keys = list[tuple[int, int]]
#: pictures that a thread prepares at a time, and such portions a thread that are prepared ahead
_PORTION, _AHEAD = 4, 4
#: the most threads that "one a core" means: what a process gets out of more, its interpreter's lock eats
_MOST = 16


class Batch(NamedTuple):
    """Pictures, or the features made of them, with their captions packed (see `Packed`)."""

    images: Tensor | None  # [B,3,H,W]
    features: Tensor | None  # [B,G,D]
    captions: Packed
    targets: Tensor  # [P]: the word after each of captions.tokens
    broken: list[str]  # pictures that could not be read, with the reason
    indices: tuple[int, ...] = ()  # the place in the split of each picture, [B]
    turns: tuple[int, ...] = ()  # how often each of them was shown before, [B]
    chances: Tensor | None = None  # [P,3]: random numbers for each of captions.tokens (see `Feeding`), where used
    soft: Soft | None = None  # what teachers expect in the place of targets, where there are any

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        return Batch(
            None
            if self.images is None
            else self.images.to(device, non_blocking=True, memory_format=torch.channels_last),
            None if self.features is None else self.features.to(device, non_blocking=True),
            self.captions.to(device),
            self.targets.to(device, non_blocking=True),
            self.broken,
            self.indices,
            self.turns,
            None if self.chances is None else self.chances.to(device, non_blocking=True),
            None if self.soft is None else self.soft.to(device),
        )

    def pinned(self) -> Batch:
        """The batch in memory that a GPU copies from while both go on."""
        names = ("images", "features", "targets", "chances")
        parts = {name: getattr(self, name) for name in names}
        tokens, sizes, image_of = self.captions
        captions = Packed(tokens.pin_memory(), sizes, image_of.pin_memory())
        pinned = {name: part.pin_memory() for name, part in parts.items() if part is not None}
        soft = None if self.soft is None else Soft(*(part.pin_memory() for part in self.soft))
        return self._replace(captions=captions, soft=soft, **pinned)


def collate(samples: Sequence[Sample], *, features: bool) -> Batch:
    """Stack pictures and pack captions, longest first; pictures that could not be read are left out and named.

    Without a readable picture the batch has no captions, and neither images nor features.
    """
    good = [sample for sample in samples if sample.picture is not None]
    captions = [(caption, row) for row, sample in enumerate(good) for caption in sample.captions]
    order = sorted(range(len(captions)), key=lambda place: -len(captions[place][0]))
    captions = [captions[place] for place in order]
    packed, targets = pack(captions)
    stacked = torch.from_numpy(np.stack([s.picture for s in good])).float() if good else None
    chances = _packed([sample.chances for sample in good], order)
    return Batch(
        None if features else stacked,
        stacked if features else None,
        packed,
        targets,
        [sample.broken for sample in samples if sample.picture is None],
        chances=None if chances is None else torch.from_numpy(chances),
        soft=_soft([sample.soft for sample in good], order),
    )


def pack(captions: Sequence[tuple[list[int], int]]) -> tuple[Packed, Tensor]:
    """Captions as token ids, the longest first, each with the row of its picture -> packed, and the next words [P]."""
    steps = max((len(caption) for caption, _ in captions), default=1) - 1
    columns = [[caption[t : t + 2] for caption, _ in captions if len(caption) > t + 1] for t in range(steps)]
    flat = torch.tensor([pair for column in columns for pair in column], dtype=torch.long).reshape(-1, 2)  # [P,2]
    image_of = torch.tensor([row for _, row in captions], dtype=torch.long)
    return Packed(flat[:, 0].contiguous(), [len(c) for c in columns], image_of), flat[:, 1].contiguous()


def packed_rows(lengths: Sequence[int], order: Sequence[int]) -> np.ndarray:
    """Where each packed word [P] stands among the words of all captions one after the other, `lengths` of each.

    `order` are the captions as they are packed.
    """
    starts = np.cumsum([0, *lengths])
    steps = range(max(lengths, default=0))
    return np.array([starts[place] + t for t in steps for place in order if lengths[place] > t], dtype=np.int64)


def _packed(tables: Sequence[Sequence[np.ndarray]], order: Sequence[int]) -> np.ndarray | None:
    """What each picture has for the words of each of its captions [L,...], packed [P,...]; None where there is none."""
    flat = [table for some in tables for table in some]
    if not flat:
        return None
    return np.concatenate(flat)[packed_rows([len(one) for one in flat], order)]


def _soft(tables: Sequence[Sequence[np.ndarray]], order: Sequence[int]) -> Soft | None:
    table = _packed(tables, order)
    if table is None:
        return None
    return Soft(torch.from_numpy(table["id"].astype(np.int64)), torch.from_numpy(table["share"].astype(np.float32)))


class Plan:
    """The order of a run: step number -> pictures and their turns, cut into parts for accumulation and processes.

    A pass shows each picture once, or as often as its weight says; an epoch is one pass, or as many as its fewest steps
    take. Steps are the same for any number of parts and processes; where a step has fewer pictures than those, some of
    its parts are empty. `pictures` is the number of pictures, or of those of each dataset, which then has its weight in
    `data.weights`. `shards` names the shard of each picture, where the pictures lie in shards: then they are shuffled
    so that those are read nearly from end to end.
    """

    def __init__(
        self,
        pictures: int | Sequence[int],
        recipe: Recipe,
        *,
        processes: int = 1,
        rank: int = 0,
        shards: Sequence[Hashable] | None = None,
    ) -> None:
        self.recipe, self.rank, self.processes = recipe, rank, processes
        self.datasets = (pictures,) if isinstance(pictures, int) else tuple(pictures)
        weights = recipe.data.weights or (1.0,) * len(self.datasets)
        #: pictures of each dataset in a pass, with their repetitions
        self.shown = [max(1, round(n * weight)) for n, weight in zip(self.datasets, weights, strict=True)]
        self._shards = numbered(shards) if shards else None
        self.parts = recipe.optimizer.accumulate
        self.steps_per_pass = -(-sum(self.shown) // recipe.optimizer.batch_size)
        self.passes = -(-recipe.optimizer.epoch_steps // self.steps_per_pass)
        self.steps_per_epoch = self.passes * self.steps_per_pass
        self.steps = recipe.optimizer.epochs * self.steps_per_epoch
        self._pass = lru_cache(maxsize=2)(self._shuffled)  # the one that is learnt, and the one prepared ahead

    def pictures_of(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Of all pictures of a step, how often each was shown before, and their indices."""
        number, place = divmod(step, self.steps_per_pass)
        size = self.recipe.optimizer.batch_size
        turns, indices = self._pass(number)
        return turns[place * size : (place + 1) * size], indices[place * size : (place + 1) * size]

    def _shuffled(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The turns and indices of all pictures of a pass, in its order."""
        seed, start, turns, indices = self.recipe.run.seed, 0, [], []
        for dataset, (many, some) in enumerate(zip(self.datasets, self.shown, strict=True)):
            taken, before = in_turn((seed, MIX, dataset), many, some, number)
            order = np.lexsort((taken, before))
            turns.append(before[order])
            indices.append(start + taken[order])
            start += many
        generator, shown = np.random.default_rng((seed, ORDER, number)), np.concatenate(indices)
        if self._shards is None:
            order = generator.permutation(len(shown))
        else:
            order = nearly_in_order(self._shards[shown], generator)
        return np.concatenate(turns)[order], shown[order]

    def parts_of(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The turns and indices of the pictures of each part of a step, over all processes."""
        cut = (np.array_split(values, self.parts * self.processes) for values in self.pictures_of(step))
        return list(zip(*cut, strict=True))

    def keys(self, start: int) -> Iterator[Keys]:
        """This process' share of every part of every step from `start` on."""
        for step in range(start, self.steps):
            for turns, indices in self.parts_of(step)[self.rank :: self.processes]:
                yield list(zip(turns.tolist(), indices.tolist(), strict=True))


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
    read = [key for key, sample in zip(part, samples, strict=True) if sample.picture is not None]
    turns, indices = zip(*read, strict=True) if read else ((), ())
    batch = collate(samples, features=teaching.features is not None)._replace(indices=indices, turns=turns)
    return batch.pinned() if pin else batch
