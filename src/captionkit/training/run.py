"""The run folder: recipe.toml, metrics.jsonl, tensorboard/, curves.png, samples.html, last.safetensors, best/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    """Where a run keeps what it makes. Only the main process writes."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path, self.writes = path, writes
        self.rows: list[dict[str, Any]] = []
        self._events: Any = None

    def start(self, recipe: Recipe) -> None:
        """A new run. Raises TrainingError if the folder holds one already."""
        if (self.path / RECIPE).exists():
            raise TrainingError(f"{self.path}: holds a run already; continue it with --resume or give another --output")
        if self.writes:
            files.write_text(self.path / RECIPE, recipe.to_toml())

    def recipe(self) -> Recipe:
        """The recipe of the run that is here. Raises TrainingError if there is none."""
        if not (self.path / RECIPE).exists():
            raise TrainingError(f"{self.path}: holds no run to resume ({RECIPE} not found); leave out --resume")
        return load_recipe(str(self.path / RECIPE))

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
        except OSError as error:
            raise TrainingError(
                f"{self.path / METRICS}: cannot be written ({error.strerror}); free space and --resume"
            ) from None
        for name, value in row.items():
            if isinstance(value, float) and name != "epoch":
                self._writer(row["step"]).add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def _writer(self, step: int) -> Any:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        return self._events

    def draw(self) -> None:
        """Bring curves.png up to date."""
        if self.writes:
            draw_curves(self.rows, self.path / CURVES)

    def close(self) -> None:
        """Flush the events."""
        if self._events is not None:
            self._events.close()


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None  # the last line of a killed run may be cut
