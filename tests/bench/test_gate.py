"""bench/quality.py and bench/gate.py: what the gate lets pass, and the tables that grow by a version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("transformers", reason="the extra `train` is not installed")
pytest.importorskip("skimage", reason="the extra `demo` is not installed")
pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")

import numpy as np
from PIL import Image

import captionkit
import gate
import quality
import tables
from captionkit.errors import CaptionkitError

MARKS = {"CIDEr-D": 0.8, "textbook": 20.0}


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the gate measures, to be changed; its marks are in a file of the test's."""
    figures = dict(MARKS)
    monkeypatch.setattr(gate, "MARKS", tmp_path / "gate.json")
    monkeypatch.setattr(gate, "measure_cider", lambda model: figures["CIDEr-D"])
    monkeypatch.setattr(gate, "measure_speed", lambda model: figures["textbook"])
    gate.MARKS.write_text(json.dumps(MARKS))
    return figures


def run(module: object, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    try:
        module.main()  # type: ignore[attr-defined]
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize(
    ("figures", "problem"),
    [
        ({}, ""),
        ({"CIDEr-D": 0.69, "textbook": 10.1}, ""),
        ({"CIDEr-D": 0.67}, "gate: CIDEr-D is 0.67, below 0.68, 85% of its mark 0.8 in gate.json\n"),
        ({"textbook": 9.9}, "gate: textbook is 9.9, below 10, 50% of its mark 20 in gate.json\n"),
    ],
)
def test_the_gate_fails_below_a_share_of_its_marks(
    figures: dict[str, float],
    problem: str,
    measured: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured.update(figures)
    assert run(gate, monkeypatch=monkeypatch) == bool(problem)
    assert capsys.readouterr().err == problem
    assert json.loads(gate.MARKS.read_text()) == MARKS


def test_marks_are_raised_and_never_lowered(measured: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    measured.update({"CIDEr-D": 0.9123456, "textbook": 15.0})
    assert run(gate, "--raise", monkeypatch=monkeypatch) == 0
    assert json.loads(gate.MARKS.read_text()) == {"CIDEr-D": 0.912, "textbook": 20.0}


def test_the_gate_knows_good_captions_from_bad_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A captioner that knows the first reference of each image passes; one that says another image's does not."""
    monkeypatch.setattr(gate, "find", lambda name: name)
    monkeypatch.setattr(gate, "open_image", lambda name: named(name))
    good = gate.measure_cider(Knowing(0))
    assert good > 1 and gate.measure_cider(Knowing(1)) < 0.5 * good


def named(name: str) -> Image.Image:
    """An image from whose colour `Knowing` tells which it is."""
    return Image.new("RGB", (64, 48), (gate.PHOTOS.index(name), 0, 0))


class Knowing:
    """Says what is known of the image `apart` places further, less a word, as it is itself among the references."""

    def __init__(self, apart: int) -> None:
        self._apart = apart

    def caption(self, image: Image.Image) -> Knowing:
        number = int(np.asarray(image)[0, 0, 0])
        said = quality.references()[gate.PHOTOS[(number + self._apart) % len(gate.PHOTOS)]][0]
        self.text = said.rpartition(" ")[0]
        return self


def test_views_are_mirrored_and_cropped() -> None:
    photo = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(1, 10, 30).repeat(3, 0).transpose(1, 2, 0).copy())
    whole, mirrored, upper, lower, middle, turned = gate.views(photo)
    assert whole.size == mirrored.size == (30, 10)
    assert {view.size for view in (upper, lower, middle, turned)} == {(26, 8)}
    pixels = np.asarray(photo)
    np.testing.assert_array_equal(np.asarray(mirrored), pixels[:, ::-1])
    np.testing.assert_array_equal(np.asarray(upper), pixels[:8, :26])
    np.testing.assert_array_equal(np.asarray(lower), pixels[2:, 4:])
    np.testing.assert_array_equal(np.asarray(turned), np.asarray(middle)[:, ::-1])


def test_every_image_has_five_references_of_its_own() -> None:
    known = quality.references()
    assert known.keys() == quality.IMAGES.keys() and len(known) == 20
    assert all(len(some) == 5 for some in known.values())
    captions = [caption for some in known.values() for caption in some]
    assert len(set(captions)) == 100
    assert all(caption == caption.lower().strip(" .") for caption in captions)


def test_the_saved_tables_are_those_of_the_captions_that_are_kept() -> None:
    releases = quality.read(quality.RELEASES)
    assert captionkit.__version__ in releases
    assert quality.report(releases) == tables.read(tables.RESULTS / "quality.json")


def test_a_version_adds_its_captions_below_the_earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, kept = tmp_path / "saved.json", tmp_path / "quality.json"
    earlier = {name: {"caption": f"earlier {name}", "confidence": 0.25} for name in quality.IMAGES}
    kept.write_text(json.dumps({"0.0.9": earlier}))
    said = {name: {"caption": f"now {name}", "confidence": 0.5} for name in quality.IMAGES}
    monkeypatch.setattr(quality, "RELEASES", kept)
    monkeypatch.setattr(quality, "captions_of", lambda model: said)
    assert run(quality, "--save", str(saved), monkeypatch=monkeypatch) == 0
    assert json.loads(kept.read_text()) == {"0.0.9": earlier, captionkit.__version__: said}
    scores, captions = tables.read(saved)
    assert [row[0] for row in scores["rows"]] == ["0.0.9", captionkit.__version__]
    first, second = captions["rows"][:2]
    assert first[0].startswith("`astronaut.png`: ") and first[1:] == ["0.0.9", "earlier astronaut.png", "25%"]
    assert second == ["", captionkit.__version__, "now astronaut.png", "50%"]


def test_an_image_that_is_missing_is_named() -> None:
    with pytest.raises(CaptionkitError, match=r"nowhere\.png is missing; install scikit-image"):
        quality.find("nowhere.png")
