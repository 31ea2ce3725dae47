"""Data loading: batches prepared ahead by threads, in the order given by the sampler."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from captionkit.training.data.collate import Batch, collate
from captionkit.training.data.dataset import CaptionDataset, Sample
from captionkit.training.data.sampler import EpochSampler, Keys

#: images that a thread prepares at a time, and number of such portions prepared ahead per thread
_PORTION, _AHEAD = 4, 4
#: upper limit of "one thread per core"; with more threads, contention for the GIL cancels the gain
_MOST = 16


def batches(
    dataset: CaptionDataset, plan: EpochSampler, start: int, workers: int, *, pin: bool = False
) -> Generator[Batch, None, None]:
    """Yield this process's batches from step `start` to the end of the run, prepared ahead by `workers` threads.

    `workers` = -1 means one thread per core, see `_threads`. `pin` puts the batches into pinned memory.
    """
    return _prepared(dataset, plan.keys(start), workers, pin)


def eval_batches(
    dataset: CaptionDataset, size: int, rank: int, processes: int, workers: int, *, pin: bool = False
) -> Generator[Batch, None, None]:
    """Yield this process's share of a split in batches of `size` images, each image once, without augmentation."""
    mine = range(rank, len(dataset), processes)
    starts = range(0, len(mine), size)
    return _prepared(dataset, ([(0, i) for i in mine[start : start + size]] for start in starts), workers, pin)


def _prepared(dataset: CaptionDataset, keys: Iterator[Keys], workers: int, pin: bool) -> Generator[Batch, None, None]:
    """Yield the batches given by `keys`, in order. Closing the generator drops what was prepared ahead."""
    if not workers:
        yield from (_joined([_samples(dataset, part)], part, dataset, pin) for part in keys)
        return
    threads = _threads(workers)
    # Threads rather than processes: Pillow and numpy release the GIL for most of the work, and nothing is copied.
    pool = ThreadPoolExecutor(threads, thread_name_prefix="captionkit-images")
    joiner = ThreadPoolExecutor(1, thread_name_prefix="captionkit-images-joined")

    def begin(part: Keys) -> Future[Batch]:
        portions = [part[start : start + _PORTION] for start in range(0, len(part), _PORTION)]
        begun = [pool.submit(_samples, dataset, portion) for portion in portions]
        return joiner.submit(lambda: _joined([future.result() for future in begun], part, dataset, pin))

    waiting: deque[tuple[int, Future[Batch]]] = deque()
    try:
        while True:
            # The queue is bounded in images, whatever the batch size: enough for all threads, plus one batch.
            while not waiting or sum(images for images, _ in waiting) < _ahead(threads):
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


def _ahead(threads: int) -> int:
    return threads * _AHEAD * _PORTION


def _threads(workers: int) -> int:
    """Resolve `workers`: -1 becomes one thread per core available to this process, shared among local ranks."""
    if workers >= 0:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _samples(dataset: CaptionDataset, part: Keys) -> list[Sample]:
    return [dataset[key] for key in part]


def _joined(portions: list[list[Sample]], part: Keys, dataset: CaptionDataset, pin: bool) -> Batch:
    samples = [sample for portion in portions for sample in portion]
    read = [key for key, sample in zip(part, samples, strict=True) if sample.image is not None]
    turns, indices = zip(*read, strict=True) if read else ((), ())
    batch = collate(samples, features=dataset.features is not None)._replace(indices=indices, turns=turns)
    return batch.pinned() if pin else batch
