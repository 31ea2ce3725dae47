"""SIGTERM and SIGHUP handled like Ctrl-C: an exception in the main thread, so that finished work is kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """Raised when a signal asks the process to stop; `status` is what a shell reports for that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped at the first of these signals while the block runs; ignore later ones.

    `timeout` and a closing terminal send their signal twice. A signal that is already ignored, as under `nohup`, stays
    ignored. Outside the main thread nothing changes, since only the main thread receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = {number: signal.getsignal(number) for number in _SIGNALS}
    usual = {number: handler for number, handler in usual.items() if handler is not signal.SIG_IGN}
    process = os.getpid()

    def stop(number: int, _: Any) -> NoReturn:
        if os.getpid() != process:  # a forked child has nothing to save
            os._exit(128 + number)
        for other in usual:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    for number in usual:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def how_ended(code: int | None) -> str:
    """Return how a process ended, from its exit code: "SIGSEGV", "exit status 3"."""
    if code is None or code >= 0:
        return f"exit status {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}, as when memory runs out" if -code == getattr(signal, "SIGKILL", 0) else name
