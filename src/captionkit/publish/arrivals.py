"""Images that arrive in a folder: which are whole, so that nothing is touched while it is still being written."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from captionkit.utils.paths import IMAGE_SUFFIXES

QUIET = 2.0
"""Seconds for which a file must not have changed."""

_State = tuple[int, int, int]


@dataclass
class _Seen:
    state: _State
    since: float


class Arrivals:
    """Keeps the files that were seen until they are whole; a file that was handled is new again once it changes."""

    def __init__(self, *, quiet: float = QUIET) -> None:
        self._quiet = quiet
        self._waiting: dict[Path, _Seen] = {}
        self._handled: dict[Path, _State] = {}

    def see(self, paths: Iterable[Path], now: float) -> None:
        """Note files that are there, at `now` seconds."""
        for path in paths:
            state = _state(path)
            if state is None:
                self._waiting.pop(path, None)
            elif self._handled.get(path) != state and path not in self._waiting:
                self._waiting[path] = _Seen(state, now)

    def ready(self, now: float) -> list[Path]:
        """Return the files that have been whole for a while, each once, at `now` seconds; sorted."""
        whole = [path for path, seen in sorted(self._waiting.items()) if self._is_whole(path, seen, now)]
        for path in whole:
            self._handled[path] = self._waiting.pop(path).state
        return whole

    def _is_whole(self, path: Path, seen: _Seen, now: float) -> bool:
        state = _state(path)
        if state != seen.state:
            if state is None:
                del self._waiting[path]
            else:
                self._waiting[path] = _Seen(state, now)
            return False
        return now - seen.since >= self._quiet and state[1] > 0 and not is_being_written(path)


def images_below(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder at every depth, without hidden names; what cannot be read is passed over."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if is_arrival(name))


def is_arrival(name: str) -> bool:
    """Return whether a file of this name is an image that is captioned; hidden names are those of unfinished copies."""
    return not name.startswith(".") and name.casefold().endswith(IMAGE_SUFFIXES)


def is_being_written(path: Path) -> bool:
    """Return whether a process has the file open for writing, as far as the system tells (Linux does, of own files)."""
    try:
        import fcntl

        set_lease, set_signal, shared = fcntl.F_SETLEASE, fcntl.F_SETSIG, fcntl.F_RDLCK
    except (ImportError, AttributeError):  # another system
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Whoever opens the file in this instant makes the kernel send a signal, which by default ends the process.
        fcntl.fcntl(descriptor, set_signal, signal.SIGURG)
        fcntl.fcntl(descriptor, set_lease, shared)  # refused while the file is open for writing
        fcntl.fcntl(descriptor, set_lease, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(descriptor)
    return False


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
