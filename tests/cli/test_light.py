"""The light half stays light: no torch, nothing heavy before it is needed, a quick start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import captionkit

HEAVY = ("torch", "transformers", "accelerate", "pydantic", "safetensors", "matplotlib")
LATER = ("onnxruntime", "rich", "huggingface_hub", "numpy", "PIL", "tokenizers")
LIGHT = (
    *(
        "cli.caption",
        "cli.inspect",
        "data.images",
        "data.layouts",
        "data.tokenizer",
        "eval.evaluate",
        "eval.score_files",
    ),
    *("inference.captioner", "inference.model_folder", "inference.onnx_runtime", "inference.results"),
    *("inference.search", "metrics", "utils.output_checks", "viz"),
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


def test_import_loads_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import captionkit; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {name for name in loaded if name.partition(".")[0] == "captionkit"} == {"captionkit"}
    assert not {"numpy", "PIL", "onnxruntime", "tokenizers", "rich", "huggingface_hub"} & set(loaded)


def test_public_names_are_there() -> None:
    assert set(captionkit.__all__) == set(captionkit._MODULES)
    for name in captionkit.__all__:
        assert getattr(captionkit, name) is not None
        assert name in dir(captionkit)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        captionkit.nonsense  # noqa: B018
