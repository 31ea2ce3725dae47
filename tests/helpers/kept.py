"""What a run kept: its recorded rows, its last step, and whether two runs came to the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from captionkit.data.run_files import LAST, METRICS


def rows(run: Path, kind: str) -> list[dict]:
    """The rows of a kind in metrics.jsonl."""
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def step_of(run: Path) -> int:
    """The step of the last checkpoint, from one opened file: the run replaces it at any moment."""
    try:
        with (run / LAST).open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except FileNotFoundError:
        return 0
    return json.loads(header["__metadata__"]["progress"])["step"]


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two safetensors files hold the same values, bit for bit."""
    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
