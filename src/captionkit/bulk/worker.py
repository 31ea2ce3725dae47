"""A worker: captions parts, one after another, and writes them. Runs in a process of its own, or within another."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from multiprocessing import connection, parent_process
from typing import Any, Protocol

from captionkit.bulk.items import Fetch, Item, locate, read_bytes
from captionkit.bulk.manifest import Done, grouped
from captionkit.bulk.plan import Part
from captionkit.bulk.records import Marks, kind_of, record_of
from captionkit.bulk.store import Store, open_store
from captionkit.bulk.writers import WITH_IMAGES, PartWriter
from captionkit.errors import CaptionkitError, ImageError
from captionkit.inference.captioner import READERS, Opened, Outcome
from captionkit.utils.archive import ArchiveMember

#: the exit status of a worker that ran out of memory, as of one that the system ended for it
OUT_OF_MEMORY = 137


class CaptionStream(Protocol):
    """What a worker needs of a Captioner."""

    def open(self, source: Any) -> Opened:
        """See Captioner.open."""
        ...

    def stream(self, sources: Iterable[Any], **settings: Any) -> Iterator[Outcome]:
        """See Captioner.stream."""
        ...


@dataclass(frozen=True)
class Job:
    """All that a worker has to know. Goes to other processes and machines."""

    load: Callable[[], CaptionStream]
    store: str
    format: str
    part_size: int
    batch_size: int
    settings: Mapping[str, Any]
    marks: Marks
    fetch: Fetch | None = None
    readers: int = READERS
    threads: int = 1


@dataclass(frozen=True)
class Task:
    """A part to caption.

    bad: why images, by their place in the part, must not be touched: they ended a worker. probe: images to caption
    alone first, since a worker ended while it opened them. alone: caption each image by itself. deaths: workers that
    ended while they captioned the part, for no known image.
    """

    part: Part
    bad: Mapping[int, str] = field(default_factory=dict)
    probe: tuple[int, ...] = ()
    alone: bool = False
    deaths: int = 0


@dataclass(frozen=True)
class Failure:
    """Why a worker cannot go on at all."""

    message: str
    #: the traceback of an error that is captionkit's own fault
    trace: str = ""


@dataclass
class Given:
    """An image of a task on its way; `content` holds its bytes where the format wants them."""

    task: Task
    index: int
    content: bytes = b""

    @property
    def item(self) -> Item:
        """Return the image."""
        return self.task.part.items[self.index]


class Board:
    """What a worker is at, in memory that outlives it: the images being opened, and the one captioned alone.

    Numbers: whether it has begun work; part and place, each plus 1, of the image alone; the same for each reader.
    """

    def __init__(self, numbers: MutableSequence[int]) -> None:
        self._numbers = numbers
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(3, len(numbers), 2):
            self._free.put(slot)

    @staticmethod
    def size(readers: int) -> int:
        """Return how many numbers it takes."""
        return 3 + 2 * readers

    @property
    def begun(self) -> bool:
        """Return whether the worker has begun work."""
        return bool(self._numbers[0])

    def begin(self) -> None:
        """Note that the worker is ready."""
        self._numbers[0] = 1

    @contextmanager
    def opening(self, part: int, index: int) -> Iterator[None]:
        """Note an image while it is opened."""
        slot = self._free.get()
        try:
            with self._noted(slot, part, index):
                yield
        finally:
            self._free.put(slot)

    def alone(self, part: int, index: int) -> Any:
        """Note an image while it is captioned alone."""
        return self._noted(1, part, index)

    @contextmanager
    def _noted(self, slot: int, part: int, index: int) -> Iterator[None]:
        self._numbers[slot + 1] = index + 1
        self._numbers[slot] = part + 1
        yield
        self._numbers[slot] = 0

    def seen_alone(self, part: int) -> int | None:
        """Return the place in a part of the image that was captioned alone."""
        return self._numbers[2] - 1 if self._numbers[1] == part + 1 else None

    def seen_opening(self, part: int) -> tuple[int, ...]:
        """Return the places in a part of the images that were being opened."""
        slots = range(3, len(self._numbers), 2)
        return tuple(sorted(self._numbers[slot + 1] - 1 for slot in slots if self._numbers[slot] == part + 1))


class Worker:
    """Captions tasks in order. Images go through the model in the same company, whatever order the parts come in."""

    def __init__(self, job: Job, board: Board, store: Store | None = None) -> None:
        self._job, self._board = job, board
        self._store = open_store(job.store) if store is None else store
        self._captioner = job.load()
        self._lone: Task | None = None

    def work(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """Yield each part as it is whole. The first images of a task are opened during the last ones of another.

        Raises CaptionkitError if nothing can be written.
        """
        waiting = iter(tasks)
        more = True
        while more:
            outcomes = self._stream(self._sources(waiting), self._job.batch_size)
            for first in outcomes:
                given: Given = first.source  # type: ignore[assignment]
                yield self._write(given.task, chain([first], outcomes))
            more, lone = self._lone is not None, self._lone
            self._lone = None
            if lone:
                yield self._write(lone, (self._alone(lone, index) for index in range(len(lone.part.items))))

    def _stream(self, given: Iterable[Given], batch_size: int) -> Iterator[Outcome]:
        job = self._job
        return self._captioner.stream(
            given, batch_size=batch_size, opener=self._open, readers=job.readers, **job.settings
        )

    def _sources(self, tasks: Iterator[Task]) -> Iterator[Given]:
        """Yield the images of tasks up to one that is to be captioned image by image.

        Each task is filled up to whole batches, so that no batch has images of two.
        """
        for task in tasks:
            if task.alone:
                self._lone = task
                return
            for index in task.probe:  # before anything else of the part, as it may end this worker
                self._alone(task, index)
            yield from (Given(task, index) for index in range(len(task.part.items) + self._fill(task)))

    def _fill(self, task: Task) -> int:
        return 0 if task.alone else -len(task.part.items) % self._job.batch_size

    def _alone(self, task: Task, index: int) -> Outcome:
        with self._board.alone(task.part.index, index):
            return next(iter(self._stream([Given(task, index)], 1)))

    def _write(self, task: Task, outcomes: Iterator[Outcome]) -> Done:
        start, part = time.perf_counter(), task.part
        errors: list[tuple[str, str]] = []
        with PartWriter(self._store, part.index, part.index * self._job.part_size, self._job.format) as writer:
            for item, outcome in zip(part.items, islice(outcomes, len(part.items)), strict=True):
                given: Given = outcome.source  # type: ignore[assignment]
                record = record_of(item, _named(outcome, item), self._job.marks)
                record = writer.add(item, record, given.content)
                if "error" in record:
                    errors.append((kind_of(record["error"], item), item.id))
            deque(islice(outcomes, self._fill(task)), maxlen=0)
            files = writer.close()
        seconds = round(time.perf_counter() - start, 3)
        return Done(part.index, files, len(part.items), grouped(iter(errors)), part.digest, seconds)

    def _open(self, given: Given) -> Opened:
        """Open an image. An error names it, and is returned."""
        if given.index >= len(given.task.part.items):  # fills a batch
            return Opened(given, None, ImageError("no image"), 0.0)  # type: ignore[arg-type]
        item = given.item
        try:
            if error := given.task.bad.get(given.index) or item.error:
                raise ImageError(error)
            with self._board.opening(given.task.part.index, given.index):
                opened = self._captioner.open(self._bytes_or_path(given))
        except CaptionkitError as error:
            message = str(error) if str(error).startswith(item.path) else f"{item.path}: {error}"
            return Opened(given, None, ImageError(message), 0.0)  # type: ignore[arg-type]
        return replace(opened, source=given)  # type: ignore[arg-type]

    def _bytes_or_path(self, given: Given) -> str | ArchiveMember | bytes:
        place = locate(given.item)
        if isinstance(place, str | ArchiveMember) and self._job.format not in WITH_IMAGES:
            return place
        content = read_bytes(place, self._job.fetch)
        if self._job.format in WITH_IMAGES:
            given.content = content
        return content


def _named(outcome: Outcome, item: Item) -> Outcome:
    """Return the outcome with the image's own name in its error."""
    for name in ("bytes", Given.__name__):
        if outcome.error.startswith(f"{name}: "):
            return replace(outcome, error=outcome.error.replace(name, item.path, 1))
    return outcome


def serve(job: Job, to_driver: connection.Connection[Any, Any], numbers: MutableSequence[int]) -> None:
    """Caption the tasks that come through a connection until it closes: the main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group; the driver ends its workers itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    board = Board(numbers)
    try:
        worker = Worker(job, board)
        board.begin()
        while True:
            for done in worker.work(_arriving(to_driver)):
                to_driver.send(done)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except CaptionkitError as error:
        to_driver.send(Failure(str(error)))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:
        to_driver.send(Failure(f"{type(error).__name__}: {error}", traceback.format_exc()))


def _arriving(from_driver: connection.Connection[Any, Any]) -> Iterator[Task]:
    """Yield the next task, and those that are waiting behind it by the time that it has been taken."""
    yield from_driver.recv()
    while from_driver.poll():
        yield from_driver.recv()


def _end_with_parent() -> None:
    """End this process when the driver has ended, even if it was killed: another run may begin any moment."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
