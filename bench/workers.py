"""Contenders of a bench, each in a process of its own, so that the threads of one do not disturb another.

A contender is made in its process by a factory, "module:name", and has

    prepare(case: str) -> dict    what is to be known of a case, which is warm afterwards
    run(case: str) -> dict        one turn of it, in figures

The parent asks by (method, case) over a pipe and is answered by ("ok", result) or ("failed", reason).
"""

from __future__ import annotations

import multiprocessing
import signal
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from captionkit.errors import CaptionkitError

#: seconds that a contender may take to start, and for each answer
PATIENCE = 300.0


class WorkerError(Exception):
    """A contender cannot be measured, or no longer; the message is the reason, in one line."""


class Worker:
    """A contender in another process. Every failure is a WorkerError, after which the process is gone."""

    def __init__(self, run_setup: str, arguments: dict[str, Any] | None = None, *, patience: float = PATIENCE) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._patience = patience
        self._process = context.Process(target=_serve, args=(theirs, run_setup, arguments or {}), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def prepare(self, case: str) -> dict[str, Any]:
        """What the contender says of a case before the first turn."""
        return self._ask("prepare", case)

    def run(self, case: str) -> dict[str, Any]:
        """One turn of a case."""
        return self._ask("run", case)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def _ask(self, method: str, case: str) -> dict[str, Any]:
        try:
            self._pipe.send((method, case))
        except OSError:
            raise WorkerError(self._ending()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            if not self._pipe.poll(self._patience):
                self.close()
                raise WorkerError(f"gave no answer within {self._patience:g} seconds")
            kind, content = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerError(self._ending()) from None
        if kind == "failed":
            self.close()
            raise WorkerError(content)
        return content

    def _ending(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        self.close()
        if code is not None and code < 0:
            return f"its process was ended by {signal.Signals(-code).name}; see whether memory ran out"
        return f"its process ended with status {code}"


def _serve(pipe: Connection, run_setup: str, arguments: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends all
    try:
        module, _, name = run_setup.partition(":")
        contender = getattr(import_module(module), name)(**arguments)
        pipe.send(("ok", {}))
        while True:
            method, case = pipe.recv()
            pipe.send(("ok", getattr(contender, method)(case)))
    except (EOFError, BrokenPipeError):  # the parent is gone
        return
    except Exception as error:
        pipe.send(("failed", _reason(error)))


def _reason(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, CaptionkitError) else f"{type(error).__name__}: {line}".removesuffix(": ")
