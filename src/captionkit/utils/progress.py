"""A progress bar for long loops of the library."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator, Iterable
from typing import TypeVar

from captionkit.utils.console import console

T = TypeVar("T")


def progress_bar(items: Iterable[T], total: int | None, what: str, *, done: int = 0) -> Generator[T, None, None]:
    """Yield `items`, with a progress bar on a terminal if captionkit's progress is logged (see `log_to_console`).

    `total` may be unknown (None); a single item gets no bar. `done` items were finished before. Close the generator
    when leaving early, so that the bar disappears at once.
    """
    shown = logging.getLogger("captionkit").isEnabledFor(logging.INFO) and sys.stderr.isatty()
    if total == 1 or not shown:
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
    # If standard output is a file while the bar is on the terminal, rich must not redirect it.
    shared = sys.stdout.isatty()
    with progress.Progress(*columns, console=console(), transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)
