"""Stopping between two steps instead of in the middle of one: Ctrl-C, SIGTERM, and the end of the terminal.

Clusters, containers and launchers of several processes send SIGTERM; the end of an ssh session sends SIGHUP, unless
`nohup` or `disown` has seen to it that it is not heard.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """While the block runs, a first interrupt is only noted (the value tells); a second acts at once, as usual.

    Not so after SIGHUP, which the system and the shell both send, nor among several processes, where the launcher
    repeats to each what the terminal has told it already, and kills by itself what does not stop.
    """
    noted: list[int] = []  # not an Event: its lock would be taken twice where one signal interrupts another's handler
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only a program's main thread can receive signals
        return
    usual = {number: signal.getsignal(number) for number in _SIGNALS}
    usual = {number: handler for number, handler in usual.items() if handler is not signal.SIG_IGN}
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, _: Any) -> None:
        first = not noted
        noted.append(number)
        if number == getattr(signal, "SIGHUP", None):
            return  # nobody is there to be told
        if not several:
            restore()
        if first and os.environ.get("RANK", "0") == "0":
            again = "" if several else "; once more stops at once"
            with suppress(OSError):
                os.write(2, f"\nfinishing this step to save it{again}\n".encode())

    for number in usual:
        signal.signal(number, note)
    try:
        yield lambda: bool(noted)
    finally:
        restore()
