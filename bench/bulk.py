"""What captioning in parts costs: memory and time of a million records, and images a second beside `Captioner.stream`.

    python bench/bulk.py [--records N] [--images N] [--rounds N] [--photos DIR] [--ray] [--save FILE]

The records are of images that are listed but never opened, by a captioner that makes up its captions: this measures
the machinery. The rates are of the bundled model, one thread for each worker. Engines take turns, round by round, and
are compared within a round; the time in which workers start is left out. Where other programs share the machine, the
rates per second of processor time tell more than those per second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

import captionkit
from captionkit.bulk.manifest import Done
from captionkit.bulk.plan import Part
from captionkit.bulk.pool import LocalPool
from captionkit.bulk.run import BulkSettings, caption_dataset
from captionkit.bulk.worker import Job
from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Caption, Opened, Outcome
from photos import found_photos, made_photos
from tables import Report, add_save, figure, table, tell

STREAM, ONE, TWO, RAY = "Captioner.stream, in one process", "local, 1 worker", "local, 2 workers", "Ray, 1 worker"
_NOTHING = np.zeros((0, 1, 1), np.float32)
_SHARES = 10  # of the records, after each of which memory and time are looked at
_PART = 128  # images of a part, where rates are measured
_MEGABYTE = 1 << 20


class MadeUp:
    """Captions an image by its place in the input, without opening it."""

    def open(self, source: Any) -> Opened:
        """Never called: what `stream` yields was not opened."""
        raise NotImplementedError

    def stream(self, sources: Iterable[Any], *, batch_size: int, **_: Any) -> Iterator[Outcome]:
        """Yield a caption for each image."""
        for given in sources:
            text = f"image {given.index} of part {given.task.part.index} that nobody has looked at"
            yield Outcome(given, Caption(text, -1.0, -1.0, 0.5, (), (), _NOTHING))


def make_up(model: str | None, threads: int) -> MadeUp:
    """Make the captioner of a worker."""
    return MadeUp()


@dataclass
class Mark:
    """The state of a run after some images: seconds, megabytes of the driver, and of the largest worker."""

    images: int
    seconds: float
    driver: float
    worker: float


class _Marking(LocalPool):
    """Notes memory and time after every share of the records."""

    marks: list[Mark]
    share: int

    def run(self, parts: Iterator[Part]) -> Iterator[Done]:
        start, images = time.monotonic(), 0
        me = psutil.Process()
        for done in super().run(parts):
            yield done
            images += done.images
            if images >= self.share * (len(self.marks) + 1):
                sizes = [0.0]
                for child in me.children():
                    with suppress(psutil.Error):
                        sizes.append(child.memory_info().rss / _MEGABYTE)
                self.marks.append(Mark(images, time.monotonic() - start, me.memory_info().rss / _MEGABYTE, max(sizes)))


def measure_records(count: int, folder: Path) -> list[Mark]:
    """Caption `count` images that do not exist, and return what the run came to on the way."""
    names = folder / "names.txt"
    with names.open("w") as file:
        file.writelines(f"folder-{number // 1000:04d}/{number:09d}.jpg\n" for number in range(count))
    _Marking.marks, _Marking.share = [], count // _SHARES
    caption_dataset(str(names), str(folder / "records"), BulkSettings(engine=_Marking, load=make_up, workers=2))
    return _Marking.marks


@dataclass
class Rate:
    """Images a second, and a second of processor time."""

    wall: float
    processor: float


def _processor_seconds(workers: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in workers:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _rate(parts: Iterator[int], measured: Callable[[], Iterable[psutil.Process]]) -> Rate:
    """Return the rate after the first of some parts, which are given by their numbers of images as they are whole."""
    next(parts)
    start, before, images = time.monotonic(), _processor_seconds(measured()), 0
    end, after = start, before
    for size in parts:
        images += size
        end, after = time.monotonic(), _processor_seconds(measured())
    return Rate(images / (end - start), images / max(after - before, 1e-9))


def stream_rate(paths: list[Path]) -> Rate:
    """Return the rate of `Captioner.stream` with one thread for the model, on one processor."""
    usual = os.sched_getaffinity(0)
    captioner = captionkit.load(threads=1)
    outcomes = captioner.stream(paths, batch_size=16)
    parts = iter(lambda: len(list(islice(outcomes, _PART))), 0)
    os.sched_setaffinity(0, {max(usual)})
    try:
        return _rate(parts, lambda: [psutil.Process()])
    finally:
        os.sched_setaffinity(0, usual)


def bulk_rate(paths: list[Path], folder: Path, engine: Callable[[Job, int], Any], workers: int) -> Rate:
    """Return the rate of a run."""
    rates: list[Rate] = []

    class Measured:
        def __init__(self, job: Job, workers: int) -> None:
            self._inner = engine(job, workers)

        def __enter__(self) -> Measured:
            self._inner.__enter__()
            return self

        def __exit__(self, *told: Any) -> None:
            self._inner.__exit__(*told)

        def run(self, parts: Iterator[Part]) -> Iterator[Done]:
            found: list[Done] = []

            def sizes() -> Iterator[int]:
                for done in self._inner.run(parts):
                    found.append(done)
                    yield done.images

            rates.append(_rate(sizes(), lambda: psutil.Process().children(recursive=True)))
            yield from found

    names = folder / "names.txt"
    names.write_text("".join(f"{path}\n" for path in paths))
    output = folder / "output"
    settings = BulkSettings(engine=Measured, workers=workers, part_size=_PART, batch_size=16)
    caption_dataset(str(names), str(output), settings)
    shutil.rmtree(output)
    return rates[0]


def measure_rates(paths: list[Path], rounds: int, folder: Path, with_ray: bool) -> dict[str, list[Rate]]:
    """Return the rates of each engine, round by round."""
    found: dict[str, list[Rate]] = defaultdict(list)
    for number in range(rounds):
        found[STREAM].append(stream_rate(paths))
        found[ONE].append(bulk_rate(paths, folder, LocalPool, 1))
        found[TWO].append(bulk_rate(paths, folder, LocalPool, 2))
        if with_ray:
            from captionkit.bulk.ray_engine import ray_engine

            found[RAY].append(bulk_rate(paths, folder, ray_engine(None), 1))
        told = ", ".join(f"{name}: {rates[-1].wall:.1f} ({rates[-1].processor:.1f})" for name, rates in found.items())
        print(f"round {number + 1}: {told}", file=sys.stderr)
    return found


def report(marks: list[Mark], rates: dict[str, list[Rate]], told: str) -> Report:
    """Everything that was measured."""
    lines: Report = [told]
    if marks:
        rows = [
            [
                f"{m.images:,}",
                f"{m.seconds:.1f}",
                figure(m.seconds / m.images * 1e6),
                f"{m.driver:.0f}",
                f"{m.worker:.0f}",
            ]
            for m in marks
        ]
        lines.append(table(["records", "seconds", "µs a record", "MB, driver", "MB, worker"], rows))
    if rates:
        rows = []
        for name, measured in rates.items():
            wall, processor = (
                [
                    getattr(rate, kind) / getattr(other, kind)
                    for rate, other in zip(measured, rates[STREAM], strict=True)
                ]
                for kind in ("wall", "processor")
            )
            rows.append([name, figure(median(rate.wall for rate in measured)), _spread(wall), _spread(processor)])
        head = ["engine", "images/s", "images/s, to stream", "images a second of processor time, to stream"]
        lines.append(table(head, rows))
    return lines


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> int:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000, metavar="N", help="0: none (default: 1000000)")
    parser.add_argument("--images", type=int, default=1280, metavar="N", help="of each turn; 0: none (default: 1280)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each engine (default: 3)")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="your own; without it, made-up ones of 640 x 480")
    parser.add_argument("--ray", action="store_true", help="also the Ray engine, on a cluster of its own")
    add_save(parser, "bulk")
    options = parser.parse_args()
    try:
        load = psutil.getloadavg()[0]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            marks = measure_records(options.records, folder) if options.records else []
            rates: dict[str, list[Rate]] = {}
            if options.images:
                photos = found_photos(options.photos, options.images) if options.photos else made_photos(folder, 64)
                paths = (photos * -(-options.images // len(photos)))[: options.images]
                rates = measure_rates(paths, options.rounds, folder, options.ray)
        told = (
            f"`python bench/bulk.py --records {options.records} --images {options.images} --rounds {options.rounds}`; "
            f"{psutil.cpu_count()} processors, load average {load:.1f} at the start; median (least–most) of the rounds."
        )
        tell(report(marks, rates, told), options.save)
    except CaptionkitError as error:
        print(f"bulk: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
