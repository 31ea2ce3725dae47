"""The notebooks of docs/notebooks: they run from beginning to end, and are kept without output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extras import require

require("nbclient", "nbclient is not installed")
require("ipykernel", "ipykernel is not installed")
require("torch", "the extra `train` is not installed")
require("skimage", "scikit-image is not installed")

NOTEBOOKS = Path(__file__).resolve().parents[2] / "docs" / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_kept_without_output(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
def test_fine_tuning_from_beginning_to_end(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOKS / "fine-tune.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [
        "".join(output.get("text", "") for output in cell.get("outputs", ()) if output.get("name") == "stdout")
        for cell in notebook.cells
    ]
    *_, before, after, scores = [text for text in printed if text]
    subjects = {"brick": "brick", "grass": "grass", "gravel": "stones|gravel", "coins": "coins", "hubble": "galaxies"}
    for photo, words in subjects.items():
        (line,) = [line for line in after.splitlines() if line.startswith(photo)]
        assert any(word in line.split(maxsplit=1)[1] for word in words.split("|")), after
    assert "galaxies" not in before
    bundled, mine = (float(line.split()[1]) for line in scores.splitlines() if line.startswith("CIDEr-D"))
    assert bundled < 1 < mine
    assert (tmp_path / "run/best/decoder.onnx").is_file()
