"""`captionkit serve --workers N`: processes that share a port, the bounds of the queue, and the metrics."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import connection, parent_process
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from uvicorn.config import STARTUP_FAILURE, Config
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from captionkit.errors import CaptionkitError
from captionkit.inference.onnx_runtime import processors
from captionkit.serve.logs import LOG, configure_logging
from captionkit.serve.occupancy import WorkerTable
from captionkit.serve.settings import Settings
from captionkit.utils.signals import how_ended

if TYPE_CHECKING:
    from fastapi import FastAPI

#: where prometheus_client looks, when it is imported, for the folder that processes share
_METRICS = "PROMETHEUS_MULTIPROC_DIR"
#: seconds without a sign of life after which a worker is replaced; one that loads a large model may give none for long
_HUNG = 60


def run_workers(
    model: str | None,
    settings: Settings,
    listening: socket,
    configured: Callable[..., Config],
    started: Callable[[], None],
) -> None:
    """Run the workers until the process gets a signal to stop; `started` is called once the first of them serves.

    `configured` makes uvicorn's configuration of an application. Raises SystemExit if a worker cannot start.
    """
    each = replace(settings, threads=settings.threads or max(1, processors() // settings.workers))
    with _shared_table() as table:
        config = configured(partial(_worker_application, model, each, table), workers=settings.workers)
        config.factory, config.timeout_worker_healthcheck = True, _HUNG
        supervisor = _Supervisor(config, [listening], table, started)
        supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        sys.exit(1)  # the worker has said why


@contextmanager
def _shared_table() -> Iterator[WorkerTable]:
    before = os.environ.get(_METRICS)
    with tempfile.TemporaryDirectory(prefix="captionkit-serve-") as folder:
        os.environ[_METRICS] = folder
        try:
            yield WorkerTable.create(Path(folder))
        finally:
            if before is None:
                del os.environ[_METRICS]
            else:
                os.environ[_METRICS] = before


class _Supervisor(Multiprocess):
    """Starts workers, replaces those that end, and passes on the signals that end them all."""

    def __init__(self, config: Config, sockets: list[socket], table: WorkerTable, started: Callable[[], None]) -> None:
        super().__init__(config, sockets)
        self._table, self._started = table, started

    def init_processes(self) -> None:
        """Start one worker, and the others once it serves: what is wrong with all of them is said once."""
        first = Process(self.config, self.sockets)
        first.start()
        self.processes.append(first)
        while first.pid not in self._table.processes():
            self.handle_signals()
            if not first.process.is_alive():
                self._end(first)
            if self.should_exit.wait(0.05):
                return
        self._started()
        for _ in range(self.processes_num - 1):
            self.processes.append(Process(self.config, self.sockets))
            self.processes[-1].start()

    def _end(self, first: Process) -> None:
        if first.exitcode != STARTUP_FAILURE:
            raise CaptionkitError(f"the first worker ended before it could serve ({how_ended(first.exitcode)})")
        self.should_exit.set()

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that have ended, and give back what they held of the queue."""
        before = list(self.processes)
        super().keep_subprocess_alive()
        self._table.keep({process.pid for process in self.processes})
        for process in before:
            if process not in self.processes:
                LOG.warning("a worker has ended (%s); another takes its place", how_ended(process.exitcode))

    def handle_hup(self) -> None:
        """End as by the other signals: a terminal that closes sends it."""
        self.handle_term()


def _worker_application(model: str | None, settings: Settings, table: WorkerTable) -> FastAPI:
    """Return the application of a worker, in its own process."""
    from captionkit.serve.server import application

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor has it too, and passes on its own
    threading.Thread(target=_end_with_parent, name="captionkit-parent", daemon=True).start()
    configure_logging(settings.log_format)
    try:
        return application(model, settings, table.claim)
    except CaptionkitError as error:
        LOG.error("%s", error)
        sys.exit(STARTUP_FAILURE)


def _end_with_parent() -> None:
    """Stop this process, once it has answered what it has taken, when the one that started it has been killed."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
