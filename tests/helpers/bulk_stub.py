"""A captioner without a model: its caption of an image follows from the image's bytes, and costs next to nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from captionkit.bulk.manifest import Done
from captionkit.bulk.plan import Part
from captionkit.bulk.run import BulkSettings
from captionkit.bulk.worker import Board, Job, Task, Worker
from captionkit.errors import ImageError
from captionkit.inference.captioner import Caption, Opened, Outcome

_NOTHING = np.zeros((0, 1, 1), np.float32)
_PIXELS = np.zeros((1, 1, 4), np.uint8)


class StubCaptioner:
    """Captions by the checksum of an image's bytes.

    An image whose bytes begin with "bad" cannot be opened; one with "kill" ends the process that opens it; one with
    "model" ends the process that captions it. `pause` seconds are spent on each.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self._pause = pause

    def open(self, source: Any) -> Opened:
        content = source if isinstance(source, bytes) else source.read() if hasattr(source, "read") else _read(source)
        if content.startswith(b"kill"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if content.startswith(b"bad"):
            return Opened(source, None, ImageError(f"{source if isinstance(source, str) else 'bytes'}: is bad"), 0.0)
        note = hashlib.sha256(content).hexdigest()[:12] + (" model" if content.startswith(b"model") else "")
        return Opened(source, _PIXELS, None, 0.0, note)

    def stream(
        self,
        sources: Iterable[Any],
        *,
        batch_size: int = 16,
        opener: Callable[[Any], Opened],
        readers: int = 2,
        min_confidence: float | None = None,
        **_: Any,
    ) -> Iterator[Outcome]:
        waiting = iter(sources)
        while given := list(islice(waiting, batch_size)):
            for opened in [opener(one) for one in given]:
                time.sleep(self._pause)
                yield _outcome(opened).reviewed(min_confidence)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


def _outcome(opened: Opened) -> Outcome:
    if opened.pixels is None:
        return Outcome(opened.source, None, str(opened.error))
    if opened.note.endswith(" model"):
        os.kill(os.getpid(), signal.SIGSEGV)
    score = int(opened.note[:4], 16) / 65536
    caption = Caption(f"image {opened.note}", -score, -score, score, (), (), _NOTHING)
    return Outcome(opened.source, caption)


def load_stub(model: str | None, threads: int) -> StubCaptioner:
    """Make the captioner of a worker process."""
    return StubCaptioner()


def load_slow_stub(model: str | None, threads: int) -> StubCaptioner:
    """Make one that takes 5 ms for an image."""
    return StubCaptioner(0.005)


class InlinePool:
    """An engine without processes: the parts are captioned one after another, in this one."""

    def __init__(self, job: Job, workers: int) -> None:
        self._worker = Worker(job, Board([0] * Board.size(job.readers)))

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, parts: Iterator[Part]) -> Iterator[Done]:
        for part in parts:
            yield from self._worker.work([Task(part)])


def settings(**changes: Any) -> BulkSettings:
    """Return settings of a run with the stub in this process, in parts of 8."""
    usual: dict[str, Any] = {"part_size": 8, "batch_size": 4, "engine": InlinePool, "load": load_stub}
    return BulkSettings(**(usual | changes))


def write_images(folder: Path, count: int, *, start: int = 0) -> None:
    """Write files that the stub captions, some of them in folders below."""
    for index in range(start, start + count):
        place = folder / f"sub{index % 3}" if index % 3 else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:05d}.jpg").write_bytes(b"image %d" % index)


def union(output: Path) -> list[bytes]:
    """Return the sorted records of an output's parts."""
    return sorted(line for path in output.glob("part-*.jsonl") for line in path.read_bytes().splitlines())
