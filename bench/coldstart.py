"""Seconds from the start of a process to its first sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from captionkit.errors import CaptionkitError
from speed_cases import COMMAND, IMPORTS, LIBRARY, PARTS

# Says at what time each part was over. The imports are those before the graphs are opened; others come meanwhile.
_STAGED = """
import time
times = [time.time()]
import onnxruntime
import captionkit, captionkit.inference.load
times.append(time.time())
model = captionkit.load({model!r})
times.append(time.time())
model.caption({photo!r})
times.append(time.time())
print(times)
"""
# What a transformers captioner needs before it can load its weights.
_NEEDED = "import torch; from transformers import VisionEncoderDecoderModel; print()"


class ColdStart:
    """A turn of a case is one process."""

    def __init__(self, model: str | None, photo: Path) -> None:
        staged = _STAGED.format(model=model, photo=str(photo))
        chosen = [] if model is None else ["--model", model]
        # As an installed package has them, whatever the environment says: modules that have been compiled.
        self._compiled = tempfile.TemporaryDirectory()
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._environment = {**kept, "PYTHONPYCACHEPREFIX": self._compiled.name}
        self._commands = {
            COMMAND: ["-m", "captionkit", "caption", str(photo), *chosen],
            LIBRARY: ["-c", staged],
            IMPORTS: ["-c", _NEEDED],
        }

    def prepare(self, case: str) -> dict[str, Any]:
        """Once for the compiled modules and the disk's cache."""
        self.run(case)
        return {}

    def run(self, case: str) -> dict[str, Any]:
        """Milliseconds to the first line of output, and by part where the process tells them."""
        start = time.time()
        with subprocess.Popen(
            [sys.executable, *self._commands[case]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        ) as process:
            line = process.stdout.readline()  # type: ignore[union-attr]
            total = (time.time() - start) * 1000
            _, said = process.communicate()
        if process.returncode:
            reason = (said.strip().splitlines() or [f"status {process.returncode}"])[-1]
            raise CaptionkitError(f"{case}: {reason}")
        if case != LIBRARY:
            return {"total": total}
        times = [start, *json.loads(line)]
        parts = {name: (end - begin) * 1000 for name, begin, end in zip(PARTS, times[:-1], times[1:], strict=True)}
        return {"total": total, **parts}
