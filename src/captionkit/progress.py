"""What a person sees of long work: a bar and lines on a terminal, plain lines in a pipe. All of it on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


@lru_cache(1)
def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Print a line, above the bar where there is one."""
    if sys.stderr.isatty():
        _console().print(line, markup=False, soft_wrap=True)
    else:
        print(line, file=sys.stderr, flush=True)


def track(items: Iterable[T], total: int | None, what: str, *, done: int = 0) -> Iterator[T]:
    """Pass `items` on, with a bar on a terminal and nothing in a pipe. `total` may be unknown; `done` were done before."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=_console(), transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)
