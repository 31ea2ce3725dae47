"""What commands print: results on standard output; messages, and what the library logs, on standard error."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, TextIO

from captionkit.errors import CaptionkitError

if TYPE_CHECKING:
    from rich.console import Console


@lru_cache(1)
def console() -> Console:
    """Return the console on standard error, which all messages and progress share."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_message(line: str) -> None:
    """Print a line on standard error, above the progress bar if there is one. Ignore errors of the stream."""
    try:
        if sys.stderr.isatty():
            console().print(line, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)
    except OSError:  # a full disk, or a closed pipe: no reason to lose the work
        silence(sys.stderr)


class _Console(logging.Handler):
    """Prints log messages as lines; warnings are marked as captionkit's."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; errors of the stream are ignored, as a run may outlive its terminal."""
        with suppress(OSError):
            name = "captionkit: " if record.levelno >= logging.WARNING else ""
            print_message(f"{name}{record.getMessage()}")


@contextmanager
def log_to_console(*, verbose: bool = False) -> Iterator[None]:
    """Print what captionkit's loggers say on standard error, with `verbose` in detail (DEBUG), and show progress bars.

    Library code logs to children of the logger "captionkit", progress as INFO, which Python leaves out unless asked.
    """
    with handled_by(_Console(), "captionkit", logging.DEBUG if verbose else logging.INFO):
        yield


@contextmanager
def handled_by(handler: logging.Handler, name: str, level: int) -> Iterator[None]:
    """Pass what the logger `name` says from `level` on to `handler` alone while the block runs."""
    logger = logging.getLogger(name)
    before, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagate


def print_result(answer: object) -> None:
    """Print a result on standard output and flush it. Raises CaptionkitError if it cannot be written.

    BrokenPipeError propagates: the reader, such as `head`, has what it wanted.
    """
    try:
        print(answer, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise CaptionkitError(f"standard output: cannot be written ({reason}); free space, or name a place") from None


def silence(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that Python does not report a failed flush when it exits."""
    with suppress(OSError, ValueError):  # a stream without a file descriptor cannot fail at exit
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
