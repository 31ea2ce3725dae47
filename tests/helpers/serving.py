"""A server for tests: `captionkit serve` in a process of its own, and a captioner that waits to be let on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import captionkit
from captionkit.inference.captioner import Captioner


@dataclass
class Server:
    """A started server; `log` is what it has said so far."""

    url: str
    process: subprocess.Popen[bytes]
    file: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        return self.file.read_text(encoding="utf-8")


@contextmanager
def started(folder: Path, *flags: object, **environment: str) -> Iterator[Server]:
    """A server on a free port, which works in `folder` and must be alive at the end, unless the test ended it."""
    file = folder.with_name(f"{folder.name}.log")
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "captionkit", "serve", "--port", "0", *map(str, flags)]
    with file.open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stderr=log, env=os.environ | environment)
    try:
        yield Server(_address(process, file), process, file)
        assert process.poll() in (None, 0, -15), file.read_text()
    finally:
        process.terminate()
        process.wait(90)


def _address(process: subprocess.Popen[bytes], file: Path) -> str:
    for _ in range(1800):
        found = re.search(r"serving at (http://\S+)", file.read_text())
        if found:
            return found.group(1)
        assert process.poll() is None, file.read_text()
        time.sleep(0.1)
    raise AssertionError(f"no server after minutes: {file.read_text()}")


class Gate:
    """A captioner whose model stands still until `open` is set, and which remembers the batches that it was given."""

    def __init__(self) -> None:
        self.captioner: Captioner = captionkit.load(threads=1)
        self.open = threading.Event()
        self.batches: list[tuple[int, int]] = []  # images, beam
        self._describe = self.captioner.describe
        self.captioner.describe = self._held  # type: ignore[method-assign]

    def _held(self, opened: Any, decoding: Any) -> Any:
        self.batches.append((len(opened), decoding.num_beams))
        assert self.open.wait(120)
        return self._describe(opened, decoding)
