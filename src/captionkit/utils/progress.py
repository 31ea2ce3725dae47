"""Console output: results on standard output; messages and, on a terminal, a progress bar on standard error."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, TextIO, TypeVar

from captionkit.errors import CaptionkitError

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


@lru_cache(1)
def console() -> Console:
    """Return the console on standard error, which all messages and progress share."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Print a line on standard error, above the progress bar if there is one. Ignore errors of the stream."""
    try:
        if sys.stderr.isatty():
            console().print(line, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)
    except OSError:  # a full disk, or a closed pipe: no reason to lose the work
        discard(sys.stderr)


class _Console(logging.Handler):
    """Prints log messages as lines; warnings are marked as captionkit's."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; errors of the stream are ignored, as a run may outlive its terminal."""
        with suppress(OSError):
            say(f"captionkit: {record.getMessage()}" if record.levelno >= logging.WARNING else record.getMessage())


@contextmanager
def log_to_console(*, verbose: bool = False) -> Iterator[None]:
    """Print what captionkit's loggers say on standard error, and show `progress_bar`, while inside the block.

    With `verbose`, details too (DEBUG).

    Library code logs to children of the logger "captionkit", progress as INFO, which Python leaves out unless asked.
    """
    logger, handler = logging.getLogger("captionkit"), _Console()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def progress_bar(items: Iterable[T], total: int | None, what: str, *, done: int = 0) -> Generator[T, None, None]:
    """Yield `items` as `track` does, with a bar only if captionkit's progress is logged (see `log_to_console`)."""
    return track(items, total, what, done=done, shown=logging.getLogger("captionkit").isEnabledFor(logging.INFO))


def tell(answer: object) -> None:
    """Print a result on standard output and flush it. Raises CaptionkitError if it cannot be written.

    BrokenPipeError propagates: the reader, such as `head`, has what it wanted.
    """
    try:
        print(answer, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard(sys.stdout)
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise CaptionkitError(f"standard output: cannot be written ({reason}); free space, or name a place") from None


def discard(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that Python does not report a failed flush when it exits."""
    with suppress(OSError, ValueError):  # a stream without a file descriptor cannot fail at exit
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def track(
    items: Iterable[T], total: int | None, what: str, *, done: int = 0, shown: bool = True
) -> Generator[T, None, None]:
    """Yield `items`, with a progress bar on a terminal (if `shown`) and nothing in a pipe.

    `total` may be unknown (None); a single item gets no bar. `done` items were finished before. Close the generator
    when leaving early, so that the bar disappears at once.
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
    # If standard output is a file while the bar is on the terminal, rich must not redirect it.
    shared = sys.stdout.isatty()
    with progress.Progress(*columns, console=console(), transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)
