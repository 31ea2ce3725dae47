"""Ctrl-C (and SIGTERM, which clusters and containers send) between two steps instead of in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """While the block runs, a first interrupt is only noted (the value tells); a second acts at once, as usual."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set  # only a program's main thread can receive signals
        return
    usual = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(*_: Any) -> None:
        noted.set()
        restore()
        os.write(2, b"\nfinishing this step to save it; once more stops at once\n")

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield noted.is_set
    finally:
        restore()
