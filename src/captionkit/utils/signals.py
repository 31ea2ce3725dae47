"""SIGTERM and SIGHUP as Ctrl-C is: an exception in the main thread, so that what was done so far is kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end; `status` is what a shell tells of one that ended by it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """While the block runs, the first of these signals raises Stopped, and later ones are passed over.

    `timeout` and the end of a terminal send theirs twice. What `nohup` has silenced stays silent; so does everything
    outside the main thread, which alone receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = {number: signal.getsignal(number) for number in _SIGNALS}
    usual = {number: handler for number, handler in usual.items() if handler is not signal.SIG_IGN}
    process = os.getpid()

    def stop(number: int, _: Any) -> NoReturn:
        if os.getpid() != process:  # a child that was forked has nothing to keep
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
