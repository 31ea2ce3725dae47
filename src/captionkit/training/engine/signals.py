"""Stop between two steps instead of in the middle of one: on Ctrl-C, SIGTERM, and when the terminal closes.

Clusters, containers and distributed launchers send SIGTERM. The end of an ssh connection sends SIGHUP, unless `nohup`
or `disown` makes the process ignore it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Defer interrupts while the block runs; yields a function that returns whether one has arrived.

    The first interrupt is only recorded; a second one takes effect at once, as usual. Two exceptions: after SIGHUP,
    which the system and the shell both send, and with several processes, where the launcher forwards signals that the
    terminal has already delivered and itself kills processes that do not stop.
    """
    noted: list[int] = []  # not an Event: a signal that interrupts another's handler would deadlock on its lock
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread can receive signals
        return
    usual = {number: signal.getsignal(number) for number in _SIGNALS}
    usual = {number: handler for number, handler in usual.items() if handler is not signal.SIG_IGN}
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    shown = logging.getLogger(__name__).isEnabledFor(logging.INFO) and os.environ.get("RANK", "0") == "0"

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, _: Any) -> None:
        first = not noted
        noted.append(number)
        if number == getattr(signal, "SIGHUP", None):
            return  # the terminal is gone, so there is nowhere to print to
        if not several:
            restore()
        if first and shown:
            again = "" if several else "; once more stops at once"
            with suppress(OSError):
                os.write(2, f"\nfinishing this step to save it{again}\n".encode())

    for number in usual:
        signal.signal(number, note)
    try:
        yield lambda: bool(noted)
    finally:
        restore()
