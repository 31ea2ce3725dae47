"""The light half stays light: no torch, nothing heavy before it is needed, a quick start."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import captionkit

HEAVY = ("torch", "transformers", "accelerate", "pydantic", "safetensors", "matplotlib")
LATER = ("onnxruntime", "rich", "huggingface_hub", "numpy", "PIL", "tokenizers")
LIGHT = (
    *("batch", "bundle", "captioner", "datasets", "evaluation", "inspection", "metrics", "results", "runtime"),
    *("scoring", "search", "text", "viz"),
)


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after running `code`."""
    command = f"{code}\nimport sys, json; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_nothing_heavy() -> None:
    assert not loaded_by("import captionkit") & {*HEAVY, *LATER}


def test_light_modules_never_load_the_heavy_half() -> None:
    code = "\n".join(f"import captionkit.{name}" for name in LIGHT)
    assert not loaded_by(code) & {*HEAVY, "onnxruntime", "rich"}


def test_captioning_loads_no_torch(model_folder: Path, photos: Path) -> None:
    code = f"import captionkit; print(captionkit.load({str(model_folder)!r}).caption({str(photos / 'one.jpg')!r}))"
    found = loaded_by(code)
    assert not found & set(HEAVY)
    assert "onnxruntime" in found


def test_import_is_quick() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import captionkit"], check=True)
        return time.perf_counter() - start

    # The best of a few, for a busy machine; the interpreter's own start is part of it.
    assert min(seconds() for _ in range(5)) < 0.3


def test_public_names_are_there() -> None:
    assert set(captionkit.__all__) == set(captionkit._MODULES)
    for name in captionkit.__all__:
        assert getattr(captionkit, name) is not None
        assert name in dir(captionkit)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        captionkit.nonsense  # noqa: B018
