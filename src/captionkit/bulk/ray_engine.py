"""The Ray engine (extra: ray): the same workers as on one machine, each below an actor, on the machines of a cluster.

An actor holds one worker process, so that an image which ends its process is dealt with there, as on one machine. The
part of an actor that is lost with its machine goes to another one. All else is as on one machine.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from captionkit.bulk.manifest import Done
from captionkit.bulk.plan import Part
from captionkit.bulk.pool import LocalPool
from captionkit.bulk.remote import require
from captionkit.bulk.worker import Job
from captionkit.errors import CaptionkitError, one_line

LOG = logging.getLogger(__name__)

_LOOK = 5.0  # seconds after which the cluster's size is looked at again
_AHEAD = 3  # parts of an actor: the two that its worker has, and one that is there when the first of them is finished
_IN_VAIN = 10  # actors lost, beyond one for each wanted, during which nothing was finished


class Host:
    """What an actor does: captions parts in a worker process of its own, which opens the next part's images early.

    `run` is called from as many threads as an actor has parts.
    """

    def __init__(self, job: Job) -> None:
        self._pool = LocalPool(job, 1)
        self._given = _Given()
        self._results: dict[int, Future[Done]] = {}
        self._failure: Future[str] = Future()
        threading.Thread(target=self._caption, name="captionkit-bulk", daemon=True).start()

    def ready(self) -> bool:
        """Return True, once the actor has been placed and started."""
        return True

    def run(self, part: Part) -> Done | str:
        """Return the part once it is whole, or why nothing can be done."""
        result = self._results[part.index] = Future()
        self._given.put(part)
        awaited: list[Future[Any]] = [result, self._failure]
        wait(awaited, return_when=FIRST_COMPLETED)
        return result.result() if result.done() else self._failure.result()

    def _caption(self) -> None:
        try:
            while True:
                self._given.wait()
                for done in self._pool.run(self._given):
                    self._results.pop(done.index).set_result(done)
        except CaptionkitError as error:  # as text: Ray would wrap it into an exception of its own
            self._failure.set_result(str(error))
        except BaseException as error:
            self._failure.set_exception(error)


class _Given(Iterator[Part]):
    """The parts that an actor has been given: iteration ends when there is none for now, and can go on later."""

    def __init__(self) -> None:
        self._parts: queue.SimpleQueue[Part] = queue.SimpleQueue()
        self._first: Part | None = None

    def put(self, part: Part) -> None:
        """Add a part."""
        self._parts.put(part)

    def wait(self) -> None:
        """Wait until there is a part."""
        self._first = self._parts.get()

    def __next__(self) -> Part:
        if self._first is not None:
            part, self._first = self._first, None
            return part
        try:
            return self._parts.get_nowait()
        except queue.Empty:
            raise StopIteration from None


@dataclass(eq=False)
class _Actor:
    handle: Any
    ready: Any
    placed: bool = False
    parts: dict[Any, Part] = field(default_factory=dict)


class RayPool:
    """Actors on a Ray cluster: `workers` of them, or as many as it has processors for, and more as it grows.

    Actors beyond what the cluster has room for wait for it, which makes its autoscaler start machines.
    """

    def __init__(self, job: Job, workers: int, address: str | None) -> None:
        self._job, self._workers, self._address = job, workers, address
        self._actors: list[_Actor] = []
        self._again: deque[Part] = deque()
        self._in_vain = 0

    def __enter__(self) -> RayPool:
        import ray

        self._begun_here = not ray.is_initialized()
        if self._begun_here:
            try:
                _reach(self._address)
                ray.init(
                    address=self._address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise CaptionkitError(
                    f"--address {self._address}: no Ray cluster there ({one_line(error)}); run `ray start --head`"
                ) from None
        remote: Any = ray.remote(Host)
        self._host = remote.options(num_cpus=self._job.threads, max_concurrency=_AHEAD)
        self._given = ray.put(self._job)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor.handle)
        self._actors = []
        if self._begun_here:
            ray.shutdown()

    def run(self, parts: Iterator[Part]) -> Iterator[Done]:
        """See Engine."""
        import ray

        while True:
            self._ask_for_actors()
            waiting = self._fill(parts)
            running = [ref for actor in self._actors for ref in actor.parts]
            if not running and not waiting:
                return
            starting = [actor.ready for actor in self._actors if not actor.placed]
            for ref in ray.wait([*running, *starting], timeout=_LOOK)[0]:
                if (done := self._take(ref)) is not None:
                    self._in_vain = 0
                    yield done

    def _wanted(self) -> int:
        import ray

        return self._workers or max(1, int(ray.cluster_resources().get("CPU", 1) // self._job.threads))

    def _ask_for_actors(self) -> None:
        while len(self._actors) < self._wanted():
            handle: Any = self._host.remote(self._given)
            self._actors.append(_Actor(handle, handle.ready.remote()))

    def _fill(self, parts: Iterator[Part]) -> bool:
        """Give each actor that is placed a part, then each a second one; return whether any part waits."""
        placed = [actor for actor in self._actors if actor.placed]
        for wanted in range(1, _AHEAD + 1):
            for actor in placed:
                if len(actor.parts) < wanted:
                    part = self._again.popleft() if self._again else next(parts, None)
                    if part is None:
                        return False
                    actor.parts[actor.handle.run.remote(part)] = part
        if not placed and not self._again and (part := next(parts, None)) is not None:
            self._again.append(part)  # looked at only to know that there is work to wait for
        return bool(self._again)

    def _take(self, ref: Any) -> Done | None:
        """Return what has become of a part; None for an actor that is ready or lost. Raises CaptionkitError."""
        import ray

        actor = next((one for one in self._actors if ref == one.ready or ref in one.parts), None)
        if actor is None:
            return None  # of an actor that was lost a moment ago
        try:
            said = ray.get(ref)
        except ray.exceptions.RayActorError as error:
            self._lose(actor, one_line(error))
            return None
        if ref == actor.ready:
            actor.placed = True
            return None
        del actor.parts[ref]
        if isinstance(said, str):
            raise CaptionkitError(said)
        return said

    def _lose(self, actor: _Actor, reason: str) -> None:
        self._actors.remove(actor)
        self._again.extend(actor.parts.values())
        self._in_vain += 1
        if self._in_vain > _IN_VAIN + self._wanted():
            raise CaptionkitError(f"workers on the Ray cluster keep ending, and nothing gets done ({reason})")
        LOG.warning("a worker on the Ray cluster is lost; its parts go to others")


def _reach(address: str | None) -> None:
    """Raise OSError if nothing listens at an address of a host and a port: Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_LOOK).close()


def ray_engine(address: str | None) -> Callable[[Job, int], RayPool]:
    """Return what makes the engine, for `Settings.engine`. Raises CaptionkitError if Ray is not installed."""
    require("ray", "ray")

    def make(job: Job, workers: int) -> RayPool:
        return RayPool(job, workers, address)

    return make
