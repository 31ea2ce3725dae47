"""The model in the box: small enough, undamaged, and good enough on pictures it has not seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import captionkit
from captionkit.bundle import BUNDLED, open_model

quality = pytest.importorskip("quality", reason="bench/ is not beside tests/")


def test_size_and_integrity() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.parent.rglob("*") if path.is_file()) < 40e6
    folder = open_model()
    folder.verify()
    assert folder.runnable
    assert sorted(path.name for path in BUNDLED.iterdir()) == sorted(["config.json", *folder.config["files"]])


def test_card_says_how_it_was_made() -> None:
    card, made = (BUNDLED / "README.md").read_text(), open_model().section("provenance")
    for fact in ("Flickr8k", "research", "Apache-2.0", "BLEU-4", "CIDEr", made["command"], f"{made['val_loss']:.4f}"):
        assert fact in card


def test_sample_photographs_are_recognised() -> None:
    samples = pytest.importorskip("captionkit.viz.samples").sample_photos()
    said = {name: captionkit.load().caption(photo).text for name, photo in samples}
    assert any(word in said["camera.png"] for word in ("man", "person", "camera"))
    assert any(word in said["motorcycle_left.png"] for word in ("motorcycle", "bike", "bicycle"))
    assert any(word in said["astronaut.png"] for word in ("woman", "man", "person", "girl"))


@pytest.fixture(scope="module")
def validation(shared: Path) -> tuple[captionkit.CaptionSet, list[str]]:
    pictures = captionkit.open_dataset(shared / "data" / "flickr8k").split("val")
    return pictures, quality.captions_of(captionkit.load(), pictures, 32)


@pytest.mark.slow
def test_no_collapse_on_validation(validation: tuple[captionkit.CaptionSet, list[str]]) -> None:
    found = quality.habits(validation[1])
    assert found["most repeated caption"] < 0.05
    assert found["distinct"] > 0.3
    assert found["with <unk>"] == 0
    assert found["with a stutter"] == 0


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="pycocoevalcap needs Java")
def test_scores_on_validation(validation: tuple[captionkit.CaptionSet, list[str]]) -> None:
    pictures, said = validation
    ids = [str(example.id) for example in pictures]
    references = {key: list(example.captions) for key, example in zip(ids, pictures, strict=True)}
    found = quality.scores(dict(zip(ids, said, strict=True)), references)
    assert found["BLEU-4"] >= 0.21
    assert found["CIDEr-D"] >= 0.50
