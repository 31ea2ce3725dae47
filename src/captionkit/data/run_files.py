"""The files of a run folder by name, and the reader of its metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from captionkit.errors import CaptionkitError
from captionkit.utils import paths

RECIPE, METRICS, CURVES, SAMPLES, LAST, BEST = (
    "recipe.toml",
    "metrics.jsonl",
    "curves.png",
    "samples.html",
    "last.safetensors",
    "best",
)
#: the saved model's captions of the validation split, as COCO results; the report as Markdown and as HTML
CAPTIONS, REPORT_TEXT, REPORT = "captions.json", "report.md", "report.html"

_MAX_METRICS_BYTES = 1 << 30


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the recorded rows of a run. Raises CaptionkitError if there are none."""
    rows = read_rows(run / METRICS)
    if not rows:
        raise CaptionkitError(f"{run}: no metrics of a run ({METRICS}); give a folder that `captionkit train` made")
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, none if there is no file. Raises CaptionkitError if they are no run's."""
    if not paths.exists(path):
        return []
    rows = []
    for line in paths.read_text(path, limit=_MAX_METRICS_BYTES).splitlines():
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            continue  # the file of a running or killed run can end in an incomplete line
    if not all(map(_is_row, rows)):
        raise CaptionkitError(f"{path}: not the metrics of a run; give the folder that `captionkit train` made")
    return rows


def _is_row(row: Any) -> bool:
    """Return whether this is a row of a run: its kind, its step and epoch, and numbers.

    Null stands for non-finite values.
    """
    if not isinstance(row, dict) or row.get("kind") not in ("train", "eval"):
        return False
    numbers = {name: value for name, value in row.items() if name != "kind"}
    placed = all(isinstance(row.get(name), (int, float)) for name in ("step", "epoch"))
    judged = row["kind"] == "train" or isinstance(row.get("best"), bool)
    return placed and judged and all(value is None or isinstance(value, (int, float)) for value in numbers.values())
