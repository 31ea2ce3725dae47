"""The run folder: recipe.toml, metrics.jsonl, sittings.jsonl, tensorboard/, curves.png, samples.html, captions.json,
report.html, report.md, last.safetensors, best/.
"""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captionkit.errors import ModelError, TrainingError
from captionkit.inference.model_folder import open_model
from captionkit.training.config.recipe import Recipe, load_recipe, recipe_fields
from captionkit.training.run.sessions import SITTINGS
from captionkit.training.run.trackers import TENSORBOARD, Trackers
from captionkit.utils import files, paths
from captionkit.viz.curves import draw_curves

RECIPE, METRICS, CURVES, SAMPLES, LAST, BEST = (
    "recipe.toml",
    "metrics.jsonl",
    "curves.png",
    "samples.html",
    "last.safetensors",
    "best",
)
#: the kept model's captions of the validation split, as COCO results; the report, without and with images
CAPTIONS, REPORT_TEXT, REPORT = "captions.json", "report.md", "report.html"
#: what a run writes, and so what a new one would write over
_OURS = (RECIPE, METRICS, CURVES, SAMPLES, LAST, BEST, CAPTIONS, REPORT_TEXT, REPORT, SITTINGS, TENSORBOARD)


class RunFolder:
    """Where a run keeps what it makes. Reading is free; `open` makes it ready for writing, which one process does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes = False
        self.rows: list[dict[str, Any]] = []
        self._trackers = Trackers((), path)
        self._usual_hook = threading.excepthook
        self._lock = FileLock(path / ".lock", blocking=False)

    def check_new(self) -> None:
        """Raises TrainingError if the folder holds a run already, or what a run would write over."""
        if paths.exists(self.path / RECIPE, TrainingError):
            raise TrainingError(f"{self.path}: holds a run already; continue it with --resume or give another --output")
        for name in _OURS:
            if paths.exists(self.path / name, TrainingError):
                raise TrainingError(f"{self.path}: holds {name}, which a new run would replace; give another --output")

    def recipe(self) -> Recipe:
        """The recipe of the run that is here. Raises TrainingError if there is none."""
        if not paths.exists(self.path / RECIPE, TrainingError):
            raise TrainingError(f"{self.path}: holds no run to resume ({RECIPE} not found); leave out --resume")
        return load_recipe(str(self.path / RECIPE))

    def open(self, recipe: Recipe, *, resume: bool) -> None:
        """Take the folder for this process to write in, and mend what a killed one left half written.

        The lock belongs to a process and ends with it, however that ends. On a disk that knows no locks, filelock makes
        do with the file, which other hosts see too and which must be removed by hand after a kill.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if not resume:
                self.check_new()  # again, as another run may have begun and ended here since it was asked for
            if resume:
                self._mend()
        except Timeout:
            raise TrainingError(f"{self.path}: another process is training here; wait for it, or stop it") from None
        except NotImplementedError as error:  # of filelock before 3.21, on such a disk
            raise TrainingError(f"{self.path}: cannot be locked ({error}); give an --output on another disk") from None
        except OSError as error:
            raise self._unwritable(error) from None
        if not resume:
            files.write_text(self.path / RECIPE, recipe.to_toml())
        self._trackers = Trackers(recipe.run.trackers, self.path)
        threading.excepthook = self._hook
        self.writes = True

    def _mend(self) -> None:
        """Remove what a kill left half written, and finish the model that it kept from its place."""
        for name in _OURS:
            for folder in (self.path, self.path / BEST):
                for left in folder.glob(f".{name}.*.partial"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
        with suppress(ModelError):
            open_model(self.path / BEST)

    def track(self, recipe: Recipe, known: Mapping[str, str]) -> dict[str, str]:
        """Start the trackers; `known` are the ids that they gave the run before. Returns those of now."""
        values = {name: recipe.value(name) for name, _ in recipe_fields()}
        config = {
            name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()
        }
        return self._trackers.start(config, known) if self.writes else {}

    def forget(self, *, new: bool) -> None:
        """Leave no trace of a run that is `new` and cannot begin, so that another may take the folder."""
        if self.writes and new:
            for name in (RECIPE, METRICS):
                (self.path / name).unlink(missing_ok=True)

    def rewind(self, step: int) -> None:
        """Forget what was recorded after `step`, where the run is taken up again."""
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        self.rows = [row for row in map(_parse, lines) if row and row["step"] <= step]
        if self.writes:
            files.write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def record(self, row: dict[str, Any]) -> None:
        """Add a row to metrics.jsonl, and tell the trackers."""
        self.rows.append(row)
        if not self.writes:
            return
        try:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            values = {name: value for name, value in row.items() if isinstance(value, float) and name != "epoch"}
            self._trackers.record(row["step"], {f"{row['kind']}/{name}": value for name, value in values.items()})
        except OSError as error:
            raise self._unwritable(error) from None

    def _hook(self, failure: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread dies of a full disk with a traceback; its writer raises the same again where we see it.
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")):
            self._usual_hook(failure)

    def draw(self) -> None:
        """Bring curves.png up to date."""
        if self.writes:
            draw_curves(self.rows, self.path / CURVES)

    def flush(self) -> None:
        """Bring the events to disk."""
        try:
            self._trackers.flush()
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        """Let the trackers end and give the folder back.

        Each checkpoint has seen the events written; that they cannot be now is not worth a word.
        """
        try:
            with suppress(OSError):
                self._trackers.finish()
        finally:
            if threading.excepthook == self._hook:
                threading.excepthook = self._usual_hook
            self._lock.release()

    def _unwritable(self, error: OSError) -> TrainingError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = f"{'free space and --resume' if full else 'make it writable'}, or give another --output"
        return TrainingError(f"{self.path}: cannot be written ({error.strerror}); {remedy}")


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None  # the last line of a killed run may be cut
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) and "kind" in row else None
