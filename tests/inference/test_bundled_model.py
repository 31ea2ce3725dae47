"""The model in the box: small enough, undamaged, and good enough on images it has not seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import pytest

import captionkit
from captionkit.eval.evaluate import Evaluation, evaluate_model
from captionkit.inference.model_folder import BUNDLED, open_model


def test_size_and_integrity() -> None:
    packed = [zlib.compress(path.read_bytes()) for path in BUNDLED.parent.rglob("*") if path.is_file()]
    assert sum(map(len, packed)) < 39e6  # in a wheel, which holds the code besides
    assert sum((BUNDLED / f"{name}.onnx").stat().st_size for name in ("encoder", "decoder")) < 22e6
    folder = open_model()
    folder.verify()
    assert folder.runnable
    assert sorted(path.name for path in BUNDLED.iterdir()) == sorted(["config.json", *folder.config["files"]])


def test_card_says_how_it_was_made() -> None:
    card, made = (BUNDLED / "README.md").read_text(), open_model().section("provenance")
    facts = ("Flickr8k", "MS COCO", "research", "Apache-2.0", "BLEU-4", "CIDEr")
    for fact in (*facts, made["command"], f"{made['val_loss']:.4f}"):
        assert fact in card


def test_captioning_leaves_nothing_in_the_home_folder(photos: Path, tmp_path: Path) -> None:
    """Neither captionkit nor ONNX Runtime notes that an image was captioned; the latter does unless told not to."""
    hidden = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    command = [sys.executable, "-m", "captionkit", "caption", str(photos / "one.jpg")]
    assert subprocess.run(command, env=kept | hidden, capture_output=True).returncode == 0
    assert list(tmp_path.rglob("*")) == []


def test_sample_photographs_are_recognised() -> None:
    samples = pytest.importorskip("captionkit.viz.samples").sample_photos()
    said = {name: captionkit.load().caption(photo).text for name, photo in samples}
    assert any(word in said["camera.png"] for word in ("man", "person", "camera"))
    assert any(word in said["motorcycle_left.png"] for word in ("motorcycle", "bike", "bicycle"))
    assert any(word in said["astronaut.png"] for word in ("woman", "man", "person", "girl", "boy"))
    assert "cat" in said["chelsea.png"].split()


@pytest.fixture(scope="module", params=["everyday", "flickr8k"])
def evaluated(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Evaluation]:
    """The bundled model on the validation images of both of its datasets."""
    data, folder = shared / "data" / request.param, tmp_path_factory.mktemp("bundled")
    if not data.is_dir():
        pytest.skip(f"no {data}")
    return request.param, evaluate_model("bundled", data, folder, split="val", batch_size=32)


@pytest.mark.slow
def test_no_collapse_on_validation(evaluated: tuple[str, Evaluation]) -> None:
    found = evaluated[1].scores
    assert not evaluated[1].failures and found.notes == []
    assert found.variety.commonest_share < 0.05 and found.variety.distinct > 0.3
    for caption in found.candidates:
        words = caption.split()
        assert "<unk>" not in words and all(one != other for one, other in pairwise(words)), caption


@pytest.mark.slow
def test_scores_on_validation(evaluated: tuple[str, Evaluation]) -> None:
    bleu, cider = {"everyday": (0.205, 0.74), "flickr8k": (0.225, 0.55)}[evaluated[0]]
    assert evaluated[1].scores["BLEU-4"] >= bleu
    assert evaluated[1].scores["CIDEr-D"] >= cider


@pytest.mark.slow
def test_the_card_prints_these_scores(evaluated: tuple[str, Evaluation]) -> None:
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    section = card[card.index(f"`captionkit evaluate bundled {evaluated[0]}`") :]
    header, _, figures = re.search(r"^(\| BLEU-1.*)\n(.*)\n(.*)$", section, re.MULTILINE).groups()
    names, values = ([cell.strip() for cell in line.strip("|").split("|")] for line in (header, figures))
    printed = {name: float(value) for name, value in zip(names, values, strict=True)}
    assert set(evaluated[1].scores) <= set(printed)
    for name, value in evaluated[1].scores.items():
        assert value == pytest.approx(printed[name], abs=2e-3), name
