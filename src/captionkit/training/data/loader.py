"""Batches: images stacked, captions packed without padding, in an order that seed and epoch decide."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from captionkit.training.data.collate import Batch, collate
from captionkit.training.data.dataset import CaptionDataset, Sample
from captionkit.training.data.sampler import EpochSampler, Keys

#: images that a thread prepares at a time, and such portions a thread that are prepared ahead
_PORTION, _AHEAD = 4, 4
#: the most threads that "one a core" means: what a process gets out of more, its interpreter's lock eats
_MOST = 16


def batches(
    teaching: CaptionDataset, plan: EpochSampler, start: int, workers: int, *, pin: bool = False
) -> Generator[Batch, None, None]:
    """Batches of this process from step `start` to the end of the run, prepared ahead by `workers` threads.

    `workers` of -1 is a thread a core; see `_threads`. `pin` puts them where a GPU copies them from by itself.
    """
    return _prepared(teaching, plan.keys(start), workers, pin)


def whole(
    teaching: CaptionDataset, size: int, rank: int, processes: int, workers: int, *, pin: bool = False
) -> Generator[Batch, None, None]:
    """Every image of a split once, without augmentation: this process' share, `size` images at a time."""
    mine = range(rank, len(teaching), processes)
    starts = range(0, len(mine), size)
    return _prepared(teaching, ([(0, i) for i in mine[start : start + size]] for start in starts), workers, pin)


def _prepared(teaching: CaptionDataset, keys: Iterator[Keys], workers: int, pin: bool) -> Generator[Batch, None, None]:
    """The batches that `keys` name, in their order. Closing it drops what is prepared ahead."""
    if not workers:
        yield from (_joined([_samples(teaching, part)], part, teaching, pin) for part in keys)
        return
    threads = _threads(workers)
    # Threads, since Pillow and numpy let go of the interpreter: an image takes little of it, and nothing is copied.
    pool = ThreadPoolExecutor(threads, thread_name_prefix="captionkit-pictures")
    joiner = ThreadPoolExecutor(1, thread_name_prefix="captionkit-pictures-joined")

    def begin(part: Keys) -> Future[Batch]:
        portions = [part[start : start + _PORTION] for start in range(0, len(part), _PORTION)]
        begun = [pool.submit(_samples, teaching, portion) for portion in portions]
        return joiner.submit(lambda: _joined([future.result() for future in begun], part, teaching, pin))

    waiting: deque[tuple[int, Future[Batch]]] = deque()
    try:
        while True:
            # What is ahead is bounded in images, whatever a batch is: enough for all threads, and a batch.
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
    """The most images that `batches` holds in memory before they are wanted, of batches of so many images."""
    return _ahead(_threads(workers)) + batch if workers else 0


def _ahead(threads: int) -> int:
    return threads * _AHEAD * _PORTION


def _threads(workers: int) -> int:
    """The number itself; for -1, one a core that this process may use, the machine's processes sharing them."""
    if workers >= 0:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _samples(teaching: CaptionDataset, part: Keys) -> list[Sample]:
    return [teaching[key] for key in part]


def _joined(portions: list[list[Sample]], part: Keys, teaching: CaptionDataset, pin: bool) -> Batch:
    samples = [sample for portion in portions for sample in portion]
    read = [key for key, sample in zip(part, samples, strict=True) if sample.picture is not None]
    turns, indices = zip(*read, strict=True) if read else ((), ())
    batch = collate(samples, features=teaching.features is not None)._replace(indices=indices, turns=turns)
    return batch.pinned() if pin else batch
