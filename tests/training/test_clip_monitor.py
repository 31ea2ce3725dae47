"""The best model of a run chosen by the CLIPScore of its validation captions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("transformers", reason="the extra `train` is not installed")

from captionkit.cli.main import main
from captionkit.data.layouts import CaptionSet, open_dataset
from captionkit.errors import ImageError, ModelError, RecipeError
from captionkit.inference.published.clip import OnnxClipScore
from captionkit.inference.word_confidence import WordConfidence
from captionkit.models.clip_score import ClipScore
from captionkit.training import trainer
from captionkit.training.clip_monitor import ClipMonitor
from captionkit.training.trainer import train
from captionkit.training.validation import Validation
from shapes import make_recipe
from tiny_clip import published_clip, tiny_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


def test_scores_are_those_of_the_metric_and_images_are_embedded_once(
    clip: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_dataset(data).split("val")
    metric, wanted = ClipScore(str(clip), device="cpu", batch=2), ClipScore(str(clip), device="cpu")
    embedded: list[int] = []
    original = metric._embed_images
    monkeypatch.setattr(metric, "_embed_images", lambda some: embedded.append(len(some)) or original(some))
    monitor = ClipMonitor(metric, images)
    for said in ({1: "a dog", 0: ""}, {2: "two cats", 0: "a cat"}):
        found = monitor.scores(said)
        wanted.reset()
        wanted.update([*said.values()], [["x"]] * len(said), [images[place].image for place in said])
        assert list(found) == list(said)
        np.testing.assert_allclose([*found.values()], wanted.compute().per_image[:, 0], atol=1e-6)
    assert sum(embedded) == 3 and max(embedded) <= 2
    assert monitor.scores({}) == {}


def test_an_image_that_cannot_be_read_is_named(clip: Path, data: Path, tmp_path: Path) -> None:
    (example, *_) = open_dataset(data).split("val")
    images = CaptionSet("data", "val", (replace(example, image=tmp_path / "absent.jpg"),))
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        ClipMonitor(ClipScore(str(clip), device="cpu"), images).scores({0: "a dog"})


def test_clipscore_decides_and_then_the_other_scores(
    clip: Path, data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = iter([(0.5, 2.0, 0.6), (0.9, 1.0, 0.5), (0.5, 1.9, 0.6), (0.4, 1.0, 0.6)])  # CIDEr-D, loss, CLIPScore

    def validated(*_: object) -> Validation:
        cider, loss, seen = next(course)
        return Validation(loss, {"cider": cider, "clipscore": seen}, {}, WordConfidence(), set())

    monkeypatch.setattr(trainer, "validate", validated)
    changes = {"trainer.epochs": 4, "trainer.monitor": "clipscore", "trainer.clip": clip, "trainer.patience": 0}
    result = train(data, tmp_path / "run", make_recipe(backbone, changes), export=False)
    assert (result.best_cider, result.best_loss, result.best_step) == (0.5, 1.9, 9)
    assert json.loads((tmp_path / "run/best/config.json").read_text())["provenance"]["val_clipscore"] == 0.6
    assert "0.6000, by " in (tmp_path / "run/best/README.md").read_text()


@pytest.mark.slow
def test_a_run_by_the_command_line(
    clip: Path,
    data: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trainer, "export_best", lambda *_, **__: "not exported")  # which takes longer than the rest
    pytest.importorskip("onnx", reason="the extra `train` is not installed")
    graphs = published_clip(clip, tmp_path / "published")["two"]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(make_recipe(backbone, {"trainer.epochs": 3}).to_toml())
    flags = ["--recipe", recipe, "--keep-best-by", "clipscore", "--clip", graphs]
    assert main([*map(str, ["train", data, "--output", tmp_path / "run", *flags])]) == 0
    err = capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["clipscore"] for row in rows if row["kind"] == "eval"}
    config = json.loads((tmp_path / "run/best/config.json").read_text())
    best = config["provenance"]["val_clipscore"]
    assert best == max(scores.values()) == scores[config["provenance"]["step"]] and len(scores) == 3
    # the captions that were kept, scored by the graphs anew
    images = open_dataset(data).split("val")
    said = {row["image_id"]: row["caption"] for row in json.loads((tmp_path / "run/captions.json").read_text())}
    metric = OnnxClipScore(str(graphs))
    metric.update([said[e.id] for e in images], [["x"]] * len(images), [example.image for example in images])
    assert metric.compute().values["CLIPScore"] == pytest.approx(best, abs=1e-6)
    assert f"CLIPScore {best:.3f}, CIDEr-D" in err and main(["inspect", str(tmp_path / "run")]) == 0
    assert f"CLIPScore {best:.4f}, CIDEr-D" in capsys.readouterr().out


def test_what_cannot_score_is_refused_before_the_run_begins(
    clip: Path, data: Path, backbone: Path, tmp_path: Path
) -> None:
    def refused(kind: type[Exception], **changes: object) -> str:
        recipe = make_recipe(
            backbone, {"trainer.monitor": "clipscore", **{f"trainer.{k}": v for k, v in changes.items()}}
        )
        with pytest.raises(kind) as caught:
            train(data, tmp_path / "run", recipe)
        assert not (tmp_path / "run").exists() and "\n" not in str(caught.value) and len(str(caught.value)) < 600
        return str(caught.value)

    assert "names no CLIP model; name a folder or Hub id by --clip" in refused(RecipeError)
    assert "absent" in refused(ModelError, clip=tmp_path / "absent")
    assert "'resnet'" in refused(ModelError, clip=backbone)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in refused(ModelError, clip=empty)
