"""The run folder: recipe.toml, metrics.jsonl, tensorboard/, curves.png, samples.html, last.safetensors, best/."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captionkit import files
from captionkit.errors import TrainingError
from captionkit.training.recipe import Recipe, load_recipe
from captionkit.viz.curves import draw_curves

RECIPE, METRICS, CURVES, SAMPLES, LAST, BEST = (
    "recipe.toml",
    "metrics.jsonl",
    "curves.png",
    "samples.html",
    "last.safetensors",
    "best",
)


class RunFolder:
    """Where a run keeps what it makes. Reading is free; `open` makes it ready for writing, which one process does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes = False
        self.rows: list[dict[str, Any]] = []
        self._events: Any = None
        self._lock = FileLock(path / ".lock", blocking=False)

    def check_new(self) -> None:
        """Raises TrainingError if the folder holds a run already."""
        if (self.path / RECIPE).exists():
            raise TrainingError(f"{self.path}: holds a run already; continue it with --resume or give another --output")

    def recipe(self) -> Recipe:
        """The recipe of the run that is here. Raises TrainingError if there is none."""
        if not (self.path / RECIPE).exists():
            raise TrainingError(f"{self.path}: holds no run to resume ({RECIPE} not found); leave out --resume")
        return load_recipe(str(self.path / RECIPE))

    def open(self, recipe: Recipe) -> None:
        """Take the folder for this process to write in, and clear away what a killed one left half written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            for left in self.path.glob(".*.partial"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        except Timeout:
            raise TrainingError(f"{self.path}: another process is training here; wait for it, or stop it") from None
        except OSError as error:
            raise self._unwritable(error) from None
        if not (self.path / RECIPE).exists():
            files.write_text(self.path / RECIPE, recipe.to_toml())
        self.writes = True

    def rewind(self, step: int) -> None:
        """Forget what was recorded after `step`, where the run is taken up again."""
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows = [row for row in map(_parse, lines) if row and row["step"] <= step]
        if self.writes:
            files.write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def record(self, row: dict[str, Any]) -> None:
        """Add a row to metrics.jsonl and to the TensorBoard events."""
        self.rows.append(row)
        if not self.writes:
            return
        try:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            for name, value in row.items():
                if isinstance(value, float) and name != "epoch":
                    self._writer(row["step"]).add_scalar(f"{row['kind']}/{name}", value, row["step"])
        except OSError as error:
            raise self._unwritable(error) from None

    def _writer(self, step: int) -> Any:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        return self._events

    def draw(self) -> None:
        """Bring curves.png up to date."""
        if self.writes:
            draw_curves(self.rows, self.path / CURVES)

    def flush(self) -> None:
        """Bring the events to disk."""
        try:
            if self._events is not None:
                self._events.flush()
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        """Bring the events to disk and give the folder back."""
        try:
            self.flush()
            if self._events is not None:
                self._events.close()
        finally:
            self._lock.release()

    def _unwritable(self, error: OSError) -> TrainingError:
        remedy = "free space and --resume, or give another --output"
        return TrainingError(f"{self.path}: cannot be written ({error.strerror}); {remedy}")


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None  # the last line of a killed run may be cut
