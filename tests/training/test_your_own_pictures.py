"""The tutorial's commands, as printed, on real photographs; and what it promises, on a hundred aerial images."""

from __future__ import annotations

import csv
import json
import random
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

from captionkit.cli import main as cli
from captionkit.data.layouts import open_dataset
from captionkit.data.run_files import METRICS
from captionkit.training.config.recipe import FINE_TUNE, load_recipe, shipped_recipes
from captionkit.training.trainer import train
from real_photos import CAPTIONS

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "your-own-pictures.md").read_text(encoding="utf-8")
#: what makes the tutorial's runs short
BRIEF = ["--trainer.epochs", "1", "--trainer.min-steps-per-epoch", "2", "--trainer.log-samples", "2"]


def commands() -> list[list[str]]:
    """The lines of the blocks that are to be typed one after the other, which are those marked as sh."""
    typed = "".join(re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)).replace("\\\n", " ")
    return [words for line in typed.splitlines() if (words := shlex.split(line, comments=True))]


def make_pictures(folder: Path) -> None:
    """The sample photographs in `folder` with a captions.csv as the tutorial shows it, one of them for validation."""
    from captionkit.viz.samples import sample_photos

    folder.mkdir()
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for number, (name, photo) in enumerate(sample_photos()):
            photo.save(folder / name)
            table.writerows([name, caption, "train" if number else "val"] for caption in CAPTIONS[name])


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage", reason="the extra `demo` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `train` is not installed")
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    make_pictures(tmp_path / "my-pictures")
    shutil.copy("my-pictures/coffee.png", "photo.png")
    lines = commands()
    assert {words[1] for words in lines} >= {"inspect", "train", "caption", "evaluate", "plot", "export"}
    for words in lines:
        recipe = words[words.index("--recipe") + 1] if "--recipe" in words else FINE_TUNE
        if recipe not in shipped_recipes():
            continue
        with monkeypatch.context() as patched:
            if (tmp_path / "run").exists() and words[1] == "train":
                patched.setitem(sys.modules, "onnx", None)  # exporting the first run's model says enough
            brief = BRIEF if words[1] == "train" else []
            assert cli.main([*words[1:], *brief]) == 0, shlex.join(words)
    for made in (
        "run/curves.png",
        "run/samples.html",
        "run/best/encoder.onnx",
        "captionkit-evaluation/gallery.html",
        "both.png",
    ):
        assert (tmp_path / made).stat().st_size > 1000, made


def test_the_layouts_of_the_tutorial_are_those_that_are_read(tmp_path: Path) -> None:
    """Every small layout that the tutorial prints, written down as it stands there."""
    shown = re.findall(r"^`([\w./-]+)`.*?:\n\n```\n(.*?)```", GUIDE, re.DOTALL | re.MULTILINE)
    assert len(shown) >= 3
    for number, (name, content) in enumerate(shown):
        root = tmp_path / str(number)
        file = root / name
        file.parent.mkdir(parents=True)
        file.write_text(content, encoding="utf-8")
        for picture in set(re.findall(r"[\w/-]+\.jpg", content)):
            (file.parent / picture).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(__file__).resolve().parents[2] / "docs/gallery.jpg", file.parent / picture)
        dataset = open_dataset(root)
        assert not dataset.problems and sum(len(e.captions) for part in dataset.values() for e in part) == 3, name


@pytest.mark.slow
def test_a_hundred_aerial_pictures_make_a_far_better_captioner_in_a_minute(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    data = tmp_path / "hundred"
    (data / "images").mkdir(parents=True)
    for split, count in (("train", 100), ("val", 40)):
        content = json.loads((shared / f"data/ucm-captions/captions_{split}.json").read_text(encoding="utf-8"))
        chosen = random.Random(7).sample(content["images"], count)
        for image in chosen:
            shutil.copy(shared / "data/ucm-captions/images" / image["file_name"], data / "images")
        ids = {image["id"] for image in chosen}
        said = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
        (data / f"captions_{split}.json").write_text(json.dumps({"images": chosen, "annotations": said}))
    changes = {"trainer.init": "bundled", "trainer.epochs": "2", "trainer.report": "false"}
    result = train(data, tmp_path / "run", load_recipe(None, changes))
    lines = (tmp_path / "run" / METRICS).read_text(encoding="utf-8").splitlines()
    start = next(row for row in map(json.loads, lines) if row["kind"] == "eval")
    assert start["step"] == 0 and start["cider"] < 0.1
    assert result.best_step > 0 and result.best_cider > 0.5
