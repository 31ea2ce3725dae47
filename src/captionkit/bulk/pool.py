"""The local engine: worker processes that are replaced when they end, and images that end them."""

from __future__ import annotations

import logging
import multiprocessing
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from types import TracebackType
from typing import Any, Protocol

from captionkit.bulk.manifest import Done
from captionkit.bulk.plan import Part
from captionkit.bulk.worker import Board, Failure, Job, Task, serve
from captionkit.errors import CaptionkitError
from captionkit.inference.onnx_runtime import processors
from captionkit.utils.signals import how_ended

LOG = logging.getLogger(__name__)

_AHEAD = 2  # tasks of a worker: the one it is at, and one whose first images it opens meanwhile
_DEATHS = 3  # of workers over one part, without a known culprit, before its images are captioned one by one
_IN_VAIN = 10  # deaths, beyond one for each worker, during which nothing was finished
_PATIENCE = 5.0  # seconds for a worker to end by itself


class Engine(Protocol):
    """What captions parts. A context manager; leaving it ends all workers."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def run(self, parts: Iterator[Part]) -> Iterator[Done]:
        """Yield parts as they are whole, in any order. Raises CaptionkitError if the work cannot go on."""
        ...


@dataclass(eq=False)
class _Process:
    """A worker process, what it was given, and what it is at."""

    process: Any
    link: connection.Connection[Any, Any]
    board: Board
    tasks: deque[Task] = field(default_factory=deque)


class LocalPool:
    """Worker processes on this machine, `workers` or as many as it has processors for. They live until it is closed."""

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._most = job, workers or max(1, processors() // job.threads)
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Process] = []
        self._again: deque[Task] = deque()
        self._in_vain = 0

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._workers:
            worker.link.close()  # an idle worker ends by itself
        for worker in self._workers:
            if kind is None:
                worker.process.join(_PATIENCE)
            worker.process.kill()
            worker.process.join()
        self._workers = []

    def run(self, parts: Iterator[Part]) -> Iterator[Done]:
        """Yield parts as they are whole, in any order; few are taken from `parts` before they are needed.

        Raises CaptionkitError if nothing can be written, or if workers keep ending.
        """
        self._fill(parts)
        while any(worker.tasks for worker in self._workers):
            waited = {worker.link: worker for worker in self._workers}
            ended = {worker.process.sentinel: worker for worker in self._workers}
            for ready in connection.wait([*waited, *ended]):
                worker = waited.get(ready) or ended[ready]  # type: ignore[call-overload]
                if worker not in self._workers:
                    continue  # buried a moment ago
                if (done := self._hear(worker)) is not None:
                    self._in_vain = 0
                    self._fill(parts)
                    yield done
            self._fill(parts)

    def _fill(self, parts: Iterator[Part]) -> None:
        """Give each worker a task, then each a second one; start workers as long as there is work for them."""
        for wanted in range(1, _AHEAD + 1):
            for number in range(self._most):
                if number < len(self._workers) and len(self._workers[number].tasks) >= wanted:
                    continue
                task = self._again.popleft() if self._again else _task(next(parts, None))
                if task is None:
                    return
                if number >= len(self._workers):
                    self._workers.append(self._start())
                self._give(self._workers[number], task)

    def _start(self) -> _Process:
        numbers = self._context.RawArray("q", Board.size(self._job.readers))
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(self._job, theirs, numbers), name="captionkit-bulk")
        process.start()
        theirs.close()
        return _Process(process, ours, Board(numbers))

    def _give(self, worker: _Process, task: Task) -> None:
        worker.tasks.append(task)
        with suppress(OSError):  # it has ended, which is noticed next
            worker.link.send(task)

    def _hear(self, worker: _Process) -> Done | None:
        """Return the part that a worker has finished; None if it has ended instead. Raises CaptionkitError."""
        try:
            said = worker.link.recv() if worker.link.poll() else None
        except (EOFError, OSError):
            said = None
        if isinstance(said, Failure):
            if said.trace:
                raise RuntimeError(f"a worker failed:\n{said.trace}")
            raise CaptionkitError(said.message)
        if said is None:
            self._bury(worker)
            return None
        worker.tasks.popleft()
        return said

    def _bury(self, worker: _Process) -> None:
        """Take back the tasks of a worker that has ended, marking the images that its end makes suspect."""
        worker.process.join(_PATIENCE)
        worker.process.kill()
        worker.process.join()
        worker.link.close()
        self._workers.remove(worker)
        how = how_ended(worker.process.exitcode)
        updated = [_after_death(task, worker.board, how, first=not place) for place, task in enumerate(worker.tasks)]
        culprits = any(after.bad != before.bad for after, before in zip(updated, worker.tasks, strict=True))
        self._again.extendleft(reversed(updated))
        self._in_vain = 0 if culprits else self._in_vain + 1
        if self._in_vain > _IN_VAIN + self._most:
            raise CaptionkitError(
                f"workers keep ending ({how}), and nothing gets done; use fewer --workers, or more memory"
            )
        LOG.warning("a worker has ended (%s); another takes its place", how)


def _task(part: Part | None) -> Task | None:
    return None if part is None else Task(part)


def _after_death(task: Task, board: Board, how: str, *, first: bool) -> Task:
    """Return a task with what the end of its worker tells: an image that was alone is guilty, others are suspects."""
    part = task.part.index
    culprit = board.seen_alone(part)
    if culprit is not None:
        name = task.part.items[culprit].path
        error = f"{name}: ended the process that captioned it, twice ({how}); look at it or leave it out"
        return replace(
            task,
            bad={**task.bad, culprit: error},
            probe=tuple(index for index in task.probe if index != culprit),
        )
    if suspects := board.seen_opening(part):
        return replace(task, probe=tuple(sorted({*task.probe, *suspects})))
    if not first or not board.begun:
        return task
    deaths = task.deaths + 1
    return replace(task, deaths=deaths, alone=deaths >= _DEATHS)
