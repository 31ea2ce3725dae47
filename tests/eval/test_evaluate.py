"""`captionkit evaluate`: what it writes, and what it does where images or arguments are wrong."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import captionkit
from captionkit.cli.main import main
from captionkit.data.layouts import open_dataset
from captionkit.eval import evaluate
from real_photos import CAPTIONS, make_photos
from shapes import make_shapes

FEW = ("--metrics", "bleu,rouge,cider,diversity", "--resamples", "50")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real photographs, captioned."""
    pytest.importorskip("skimage", reason="the extra `demo` is not installed")
    return make_photos(tmp_path_factory.mktemp("real") / "photos")


@pytest.fixture(scope="module")
def done(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What evaluating the bundled model on them leaves."""
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["captionkit", "evaluate", "bundled", str(real), "--output", str(folder), *FEW])
        assert main() == 0
    return folder


def test_the_results_are_the_captions_and_the_scores_those_of_the_results(real: Path, done: Path, capsys) -> None:
    rows = json.loads((done / "results.json").read_text(encoding="utf-8"))
    examples = open_dataset(real)["val"]
    said = captionkit.load().caption([example.image for example in examples])
    assert rows == [{"image_id": e.id, "caption": c.text} for e, c in zip(examples, said, strict=True)]
    made = json.loads((done / "scores.json").read_text(encoding="utf-8"))
    assert run("score", real, done / "results.json", "--json", *FEW) == 0
    again = json.loads(capsys.readouterr().out)
    shared = set(again) & set(made)
    assert {"CIDEr-D", "BLEU-4", "ROUGE-L", "distinct", "intervals", "images"} <= shared
    assert {name: made[name] for name in shared} == {name: again[name] for name in shared}
    assert made["images"] == len(CAPTIONS) and made["CIDEr-D"] > 0


def test_the_scores_say_how_they_were_made(real: Path, done: Path) -> None:
    made = json.loads((done / "scores.json").read_text(encoding="utf-8"))
    assert made["command"] == shlex.join(["captionkit", "evaluate", "bundled", str(real), "--output", str(done), *FEW])
    assert made["versions"]["captionkit"] == captionkit.__version__
    assert made["data"] == {
        "name": "photos",
        "split": "val",
        "fingerprint": open_dataset(real)["val"].fingerprint(),
    }
    folder = captionkit.open_model(None)
    assert made["decoding"] == folder.decoding.to_dict()
    assert made["model"]["files"]["decoder.onnx"] == folder.config["files"]["decoder.onnx"]["sha256"]


def test_the_official_tool_takes_the_results(real: Path, done: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    truth = coco.COCO(str(real / "captions_val.json"))
    taken = truth.loadRes(str(done / "results.json"))
    assert sorted(taken.getImgIds()) == sorted(truth.getImgIds())


def test_the_gallery_shows_pictures_references_scores_and_attention(done: Path) -> None:
    page = (done / "gallery.html").read_text(encoding="utf-8")
    headings = re.findall(r'<h2 class="section"[^>]*>(\w+) by CIDEr-D', page)
    assert headings == ["Best", "Middling", "Worst"]
    assert page.count("where the model looked") >= 6 and page.count("data:image/jpeg") == 12
    for row in json.loads((done / "results.json").read_text(encoding="utf-8")):
        assert row["caption"] in html.unescape(page)
    for some in CAPTIONS.values():
        assert some[0] in html.unescape(page)
    assert "http://" not in page and "https://" not in page


def test_an_evaluation_that_fails_leaves_no_scores_of_an_earlier_one(
    real: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(done, tmp_path / "out"))
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("evaluate", "bundled", real, "--output", folder, "--num-beams", 1, *FEW) == 130
    assert sorted(path.name for path in folder.iterdir()) == ["results.json"]
    assert len(json.loads((folder / "results.json").read_text(encoding="utf-8"))) == len(CAPTIONS)


def test_no_picture_is_in_the_gallery_twice() -> None:
    import numpy as np

    for count in range(1, 30):
        places = np.concatenate(list(evaluate._groups(np.arange(count)).values()))
        assert len(set(places)) == len(places) and {0, count - 1} <= set(places)


def test_decoding_flags_are_heeded(real: Path, tmp_path: Path) -> None:
    assert run("evaluate", "bundled", real, "--output", tmp_path, "--num-beams", 1, "--max-length", 3, *FEW) == 0
    made = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert made["decoding"]["num_beams"] == 1 and made["longest"] <= 3


def test_a_bad_picture_is_named_and_the_rest_is_scored(tmp_path: Path, model_folder: Path, capsys) -> None:
    data = make_shapes(tmp_path / "data")
    victim = open_dataset(data)["val"][1].image
    victim.write_bytes(b"no picture")
    assert run("evaluate", model_folder, data, "--output", tmp_path / "out", *FEW) == 1
    err = capsys.readouterr().err
    assert victim.name in err and "1 of 3 images with references have no candidate" in err
    made = json.loads((tmp_path / "out/scores.json").read_text(encoding="utf-8"))
    assert made["images"] == 2 and len(made["without candidate"]) == 1
    assert len(json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))) == 2
    assert victim.name not in (tmp_path / "out/gallery.html").read_text(encoding="utf-8")


def test_without_any_picture_or_caption_it_says_so(tmp_path: Path, model_folder: Path, capsys) -> None:
    data = make_shapes(tmp_path / "data")
    for example in open_dataset(data)["val"]:
        example.image.write_bytes(b"")
    assert run("evaluate", model_folder, data, "--output", tmp_path / "out", *FEW) == 1
    assert "no image of split 'val' could be captioned; the first:" in capsys.readouterr().err.splitlines()[-1]
    plain = tmp_path / "plain"
    shutil.copytree(data / "images", plain) if (data / "images").is_dir() else plain.mkdir()
    for n in range(2):
        shutil.copy(next(p for p in data.rglob("*.png") if p.stat().st_size), plain / f"{n}.png")
    assert run("evaluate", model_folder, plain, "--split", "all", "--output", tmp_path / "out") == 1
    assert "no image of split 'all' has a caption to compare with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "test"), "there is no split 'test'; there is train"),
        (("--metrics", "bleu,cidre"), "metric 'cidre' is unknown; did you mean 'cider'"),
        (("--num-beams", 0), "num_beams is 0"),
        (("--batch-size", 0), "batch_size is 0"),
        (("--resamples", -1), "resamples is -1"),
        (("--metrics", "bleu,spice"), "SPICE: "),
        (("--clip", Path(__file__).parent), "cannot load this CLIP model"),
    ],
)
def test_wrong_arguments_end_in_one_line_before_any_work(
    tmp_path: Path, data: Path, model_folder: Path, arguments: tuple, message: str, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(evaluate, "_captions", lambda *_: pytest.fail("worked before it looked"))
    assert run("evaluate", model_folder, data, "--output", tmp_path / "out", *arguments) == 1
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1 and not (tmp_path / "out").exists()
