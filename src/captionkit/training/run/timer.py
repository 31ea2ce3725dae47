"""Time of a session by activity; each second counts for exactly one activity."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Timer:
    """Seconds by activity in the main process. Nested activities are not counted for the outer one."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._now, self._since = "other", time.monotonic()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far by activity; "other" is time outside of any activity."""
        self._turn(self._now)
        return dict(self._seconds)

    @contextmanager
    def section(self, what: str) -> Iterator[None]:
        """Count the time of the block towards `what`."""
        outer = self._now
        self._turn(what)
        try:
            yield
        finally:
            self._turn(outer)

    def waiting(self, items: Iterable[T], what: str) -> Generator[T, None, None]:
        """Yield from `items`, counting the time spent waiting for them towards `what`."""
        waited = iter(items)
        while True:
            with self.section(what):
                try:
                    item = next(waited)
                except StopIteration:
                    return
            yield item

    def _turn(self, to: str) -> None:
        now = time.monotonic()
        self._seconds[self._now] += now - self._since
        self._now, self._since = to, now
