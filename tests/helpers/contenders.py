"""Contenders of a bench that do as they are told, for the tests of its workers."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from captionkit.errors import CaptionkitError


class Told:
    """Does what the case says."""

    def __init__(self, answer: float = 1.0) -> None:
        self.answer = answer

    def prepare(self, case: str) -> dict[str, Any]:
        return {"prepared": case, "process": os.getpid()}

    def run(self, case: str) -> dict[str, Any]:
        if case == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if case == "ended":
            os._exit(3)
        if case == "asleep":
            time.sleep(60)
        if case == "refused":
            raise CaptionkitError("photo.jpg: empty; replace it")
        if case == "broken":
            raise ValueError("first line\nsecond line")
        return {"total": self.answer}


def unmade() -> Told:
    """A contender whose making fails."""
    raise ImportError("No module named 'nowhere'")
