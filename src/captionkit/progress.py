"""What a person sees of long work: a bar and lines on a terminal, plain lines in a pipe; all on standard error."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
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


def track(
    items: Iterable[T], total: int | None, what: str, *, done: int = 0, shown: bool = True
) -> Generator[T, None, None]:
    """Pass `items` on, with a bar on a terminal (if it is `shown`) and nothing in a pipe.

    `total` may be unknown (None), and a single item gets no bar; `done` of them were done before. Close it when leaving
    early, so that the bar goes away at once.
    """
    if total == 1 or not shown or not sys.stderr.isatty():
        yield from items
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    # Printed captions may go to a file while the bar is on the terminal: then rich must leave them alone.
    shared = sys.stdout.isatty()
    with progress.Progress(*columns, console=_console(), transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)
