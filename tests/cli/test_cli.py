"""The command line, as a person or a script uses it."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captionkit.cli import inputs
from captionkit.cli import main as cli
from captionkit.errors import CaptionkitError
from captionkit.inference.results import ResultsFile


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def said(model_folder: Path, photos: Path) -> dict[str, str]:
    """What the model says of each photo, asked through the API."""
    import captionkit

    model = captionkit.load(model_folder)
    return {str(path): model.caption(path).text for path in sorted(photos.iterdir())}


def test_one_photo_prints_just_the_sentence(
    model_folder: Path, said: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, text = next(iter(said.items()))
    assert run("caption", path, "--model", model_folder) == 0
    out, err = capsys.readouterr()
    assert out == text + "\n"
    assert err == ""


def test_folder_and_pattern_print_names(
    model_folder: Path, photos: Path, said: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for named in (photos, photos / "*"):
        assert run("caption", named, "--model", model_folder) == 0
        lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
        assert lines == said


def test_json_lines_have_the_documented_shape(
    model_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("caption", photos, "--model", model_folder, "--json", "--num-captions", 2, "--num-beams", 4) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert set(row) == {"path", "captions", "ms"}
        assert set(row["ms"]) == {"open", "encode", "decode"}
        assert len(row["captions"]) == 2
        for caption in row["captions"]:
            assert set(caption) == {"text", "log_prob", "confidence", "words"}
            assert "".join(w["text"] for w in caption["words"]) == caption["text"].replace(" ", "")
            assert all(0 <= w["confidence"] <= 1 for w in caption["words"])


def test_every_way_of_decoding_has_its_flags(
    model_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(*flags: object) -> list[dict[str, Any]]:
        assert run("caption", photos, "--model", model_folder, "--json", *flags) == 0
        return [json.loads(line)["captions"] for line in capsys.readouterr().out.splitlines()]

    def texts(*flags: object) -> list[list[str]]:
        return [[caption["text"] for caption in captions] for captions in lines(*flags)]

    sampling = ("--temperature", 1.5, "--top-k", 9, "--top-p", 0.95, "--num-captions", 5)
    assert texts(*sampling, "--seed", 1) == texts(*sampling, "--seed", 1, "--batch-size", 1)
    assert texts(*sampling, "--seed", 1) != texts(*sampling, "--seed", 2)
    grouped = lines("--num-beams", 6, "--num-beam-groups", 3, "--diversity-penalty", 20, "--num-captions", 3)
    assert all(set(caption) == {"text", "log_prob", "confidence", "words"} for found in grouped for caption in found)
    assert all(len({caption["text"].split()[0] for caption in found}) == 3 for found in grouped)
    said = texts("--prefix", "a red", "--force-words", "sea, two cats", "--bad-words", "dog,the", "--max-length", 12)
    for (text,) in said:
        assert text.startswith("a red")
        assert "two cats" in text
        assert re.search(r"\bsea\b", text)
        assert not {"dog", "the"} & set(text.split())


def test_bad_files_are_named_and_the_rest_goes_on(
    model_folder: Path, said: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = list(said)
    text, cut, missing = tmp_path / "notes.jpg", tmp_path / "cut.jpg", tmp_path / "missing.jpg"
    text.write_text("not an image")
    cut.write_bytes(Path(good[0]).read_bytes()[:300])
    named = [good[0], text, good[1], cut, missing, good[2]]
    assert run("caption", *named, "--model", model_folder, "--batch-size", 2, "--json") == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["path"] for row in rows] == [str(n) for n in named]
    assert [row["captions"][0]["text"] for row in rows if "captions" in row] == [said[p] for p in good]
    for path in (text, cut, missing):
        assert sum(line.startswith(f"captionkit: {path}") for line in err.splitlines()) == 1
    assert "3 not captioned" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_output_files(model_folder: Path, photos: Path, said: dict[str, str], tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"results{suffix}"
    assert run("caption", photos, tmp_path / "none.jpg", "--model", model_folder, "--output", out) == 1
    texts = {Path(path).stem: text for path, text in said.items()}
    if suffix == ".json":
        rows = json.loads(out.read_text())
        assert {row["image_id"]: row["caption"] for row in rows} == {
            42: texts["000000000042"],
            "one": texts["one"],
            "two": texts["two"],
        }
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert {Path(r["path"]).stem: r["captions"][0]["text"] for r in rows if "captions" in r} == texts
        assert "none.jpg" in rows[-1]["error"]
    else:
        rows = list(csv.DictReader(out.open()))
        assert {Path(r["path"]).stem: r["caption"] for r in rows if not r["error"]} == texts
        assert "none.jpg" in rows[-1]["error"]


def test_output_of_an_unknown_kind_is_known_before_the_work(
    model_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("caption", photos, "--model", model_folder, "--output", "x.xml") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert ".json, .jsonl, .csv" in err


def test_partial_results_are_readable(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    record = {"path": "7.jpg", "captions": [{"text": "a", "log_prob": -1, "confidence": 0.5}]}

    def interrupted() -> None:
        with ResultsFile(path) as results:
            results.add(record)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert json.loads(path.read_text()) == [{"image_id": 7, "caption": "a"}]


def test_attention_as_animation_arrays_and_in_the_terminal(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = ("caption", photos / "one.jpg", "--model", model_folder)
    assert run(*photo, "--attention", tmp_path / "a.gif") == 0
    said = capsys.readouterr().out.strip()
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == len(said.split())
    assert run(*photo, "--attention", tmp_path / "a.npz") == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert str(arrays["caption"]) == said and arrays["attention"].shape == (len(said.split()), 2, 3)
        maps = arrays["attention"]
    capsys.readouterr()
    assert run(*photo, "--attention", "-") == 0
    out, err = capsys.readouterr()
    assert out.strip() == said and all(word in err for word in said.split())
    assert run(*photo, "--attention", "-", "--json") == 0
    words = json.loads(capsys.readouterr().out)["captions"][0]["words"]
    np.testing.assert_allclose([word["attention"] for word in words], maps, atol=1e-4)
    assert run(*photo, "--attention", tmp_path / "a.txt") == 1
    err = capsys.readouterr().err
    assert ".gif" in err and len(err.splitlines()) == 1 and not (tmp_path / "a.txt").exists()


def test_attention_of_one_and_of_several(model_folder: Path, photos: Path, tmp_path: Path) -> None:
    assert run("caption", photos / "one.jpg", "--model", model_folder, "--attention", tmp_path / "a.png") == 0
    assert Image.open(tmp_path / "a.png").width > 100
    assert run("caption", photos, "--model", model_folder, "--attention", tmp_path / "many") == 0
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["000000000042.png", "one.png", "two.png"]


def test_drawings_of_equal_stems_all_stay(model_folder: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "b/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(photos / "one.jpg").save(tmp_path / name)
    out = tmp_path / "maps"
    assert run("caption", tmp_path / "a", tmp_path / "b", "--model", model_folder, "--attention", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["x-2.png", "x-3.png", "x.png"]
    assert run("caption", tmp_path / "a", "--model", model_folder, "--attention", tmp_path / "single") == 0
    assert [path.name for path in (tmp_path / "single").iterdir()] == ["x.png"]


@pytest.mark.parametrize("place", ["maps.gif", "maps.npz", "file"])
def test_a_file_is_no_place_for_the_drawings_of_several(
    model_folder: Path, photos: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run("caption", photos, "--model", model_folder, "--attention", tmp_path / place) == 1
    out, err = capsys.readouterr()
    assert out == "" and place in err and len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_and_words_that_are_not_utf_8(model_folder: Path, photos: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/x\xff.jpg"
    Path(os.fsdecode(odd)).write_bytes((photos / "one.jpg").read_bytes())
    base = [sys.executable, "-m", "captionkit", "caption", odd, photos / "two.png", "--model", model_folder]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*base, "--output", tmp_path / "r.csv"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2 and b"Traceback" not in done.stderr
    assert len((tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()) == 3
    done = subprocess.run([*base, "--force-words", b"dog\xff"], env=environment, capture_output=True, check=False)
    assert done.returncode == 1 and b"no text that can be encoded" in done.stderr and b"Traceback" not in done.stderr


DAMAGED = {
    "bytes": b"\xff\xfe",
    "no step": b'{"kind": "eval"}',
    "no epoch": b'{"kind": "train", "step": 1}',
    "another kind": b'{"kind": "other", "step": 1, "epoch": 1}',
    "text for a number": b'{"kind": "eval", "step": 1, "epoch": 1, "val_loss": "x", "best": true}',
    "a list": b"[1, 2]",
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("command", ["plot", "inspect"])
def test_damaged_metrics_of_a_run_are_one_line(
    tmp_path: Path, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text("")
    (tmp_path / "metrics.jsonl").write_bytes(DAMAGED[name] + b"\n")
    more = ("--output", tmp_path / "c.png") if command == "plot" else ()
    assert run(command, tmp_path, *more) == 1
    err = capsys.readouterr().err
    assert "metrics.jsonl" in err and len(err.splitlines()) == 1 and not (tmp_path / "c.png").exists()


def test_what_was_not_finite_leaves_a_gap_in_the_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    row = {"kind": "eval", "step": 1, "epoch": 1.0, "val_loss": None, "cider": None, "best": True}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert run("plot", tmp_path, "--output", tmp_path / "c.png") == 0
    assert run("plot", tmp_path, "--output", tmp_path / "c.pdf") == 1
    assert "end the name in .png" in capsys.readouterr().err and not (tmp_path / "c.pdf").exists()


def caption_of_stdin(model_folder: Path, content: bytes, *more: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "captionkit", "caption", "-", "--model", str(model_folder), *more]
    return subprocess.run(command, input=content, capture_output=True, check=False, timeout=120)


@pytest.mark.slow
def test_standard_input_is_a_picture_or_a_list(model_folder: Path, said: dict[str, str]) -> None:
    path, text = next(iter(said.items()))
    assert caption_of_stdin(model_folder, Path(path).read_bytes()).stdout.decode() == text + "\n"
    done = caption_of_stdin(model_folder, "\n".join([*said, ""]).encode())
    assert dict(line.split("\t") for line in done.stdout.decode().splitlines()) == said
    empty = caption_of_stdin(model_folder, b"")
    assert empty.returncode == 1
    assert b"standard input is empty" in empty.stderr
    garbage = caption_of_stdin(model_folder, os.urandom(500))
    assert garbage.returncode == 1
    assert b"Traceback" not in garbage.stderr


@pytest.mark.slow
def test_a_bar_on_the_terminal_leaves_a_piped_output_alone(model_folder: Path, said: dict[str, str]) -> None:
    pty = pytest.importorskip("pty", reason="no terminals to pretend on this system")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "captionkit", "caption", *said, "missing.jpg", "--model", str(model_folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=120)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    assert dict(line.split("\t") for line in done.stdout.decode().splitlines()) == said
    assert "captioning" in shown
    assert "missing.jpg: cannot be read" in shown.replace("\r\n", "")


def test_inputs(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "A.JPG").write_bytes((photos / "one.jpg").read_bytes())
    (tmp_path / "readme.txt").write_text("x")
    assert [i.name for i in inputs.find_inputs([str(tmp_path)])] == [str(tmp_path / "deep" / "A.JPG")]
    (empty,) = inputs.find_inputs([str(photos / "*.tiff")])
    assert "no file matches" in empty.error
    (tmp_path / "none").mkdir()
    (none,) = inputs.find_inputs([str(tmp_path / "none")])
    assert "no images in this folder" in none.error
    odd = tmp_path / "a[1].png"
    odd.write_bytes((photos / "two.png").read_bytes())
    (found,) = inputs.find_inputs([str(odd)])
    assert found.source == str(odd)
    listed = list(inputs.find_inputs(["-"], io.BytesIO(b"a.jpg\r\n\nb c.jpg")))
    assert [i.source for i in listed] == ["a.jpg", "b c.jpg"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["caption", "x.jpg", "--model", "nowhere"], "nowhere: no model folder"),
        (["caption", "x.jpg", "--num-beams", "0"], "num_beams is 0"),
        (["caption", "x.jpg", "--batch-size", "0"], "batch_size is 0"),
        (
            ["caption", "x.jpg", "--num-beam-groups", "2"],
            "num_beam_groups is 2, but must divide num_beams, which is 3; use num_beams 4",
        ),
        (["caption", "x.jpg", "--top-p", "0.9"], "top_p is 0.9, which is for sampling; set a temperature too"),
        (
            ["caption", "x.jpg", "--temperature", "1", "--force-words", "sea"],
            "force_words such as 'sea' are searched for",
        ),
        (["caption", "x.jpg", "--force-words", "sea,gnu"], "force_words: the model's vocabulary lacks 'gnu'"),
        (["inspect", "nowhere"], "nowhere"),
        (["export", "nowhere"], "nowhere: no model folder"),
        (["train", "nowhere", "--output", "run", "--recipe", "flickr9k"], "did you mean 'flickr8k'"),
        (["train", "nowhere", "--output", "run", "--encoder.train", "all"], "nowhere"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], reason: str, model_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "caption" and "--model" not in arguments:
        arguments = [*arguments, "--model", str(model_folder)]
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("captionkit: ")
    assert reason in err
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_missing_extra_says_what_to_install(
    untrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "captionkit.export.export_model", raising=False)
    monkeypatch.delitem(sys.modules, "captionkit.export.graphs", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert run("export", untrained) == 1
    assert "onnx is not installed; run `pip install 'captionkit[train]'`" in capsys.readouterr().err


def test_usage_errors_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["nonsense"], [], ["caption"], ["caption", "a.jpg", "--beem", "3"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(wrong)
        assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert "captionkit 0." in capsys.readouterr().out


def test_inspect_a_model(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    assert run("inspect", model_folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    tensors = load_file(model_folder / "model.safetensors")
    assert report["parameters"] == sum(t.numel() for t in tensors.values() if isinstance(t, torch.Tensor))
    assert report["grid"] == [2, 3]
    copy = Path(shutil.copytree(model_folder, tmp_path / "m"))
    (copy / "encoder.onnx").write_bytes(b"")
    assert run("inspect", copy) == 1
    assert "encoder.onnx: has 0 bytes" in capsys.readouterr().out


def test_inspect_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.toml").write_text("")
    assert run("inspect", tmp_path) == 1, "nothing to go on from yet"
    rows = [
        {"kind": "train", "step": 20, "epoch": 1.0, "loss": 3.0},
        {"kind": "eval", "step": 20, "epoch": 1.0, "val_loss": 2.5, "cider": 0.5, "best": True},
        {"kind": "eval", "step": 40, "epoch": 2.0, "val_loss": 2.25, "cider": 0.4, "best": False},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tr')
    (tmp_path / "last.safetensors").write_bytes(b"")
    assert run("inspect", tmp_path) == 0
    out = capsys.readouterr().out
    assert "40 steps" in out
    assert "CIDEr-D 0.5000, 2.5000 nats per word, epoch 1.00" in out


def test_plot_draws_one_run_or_compares_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    rows = [
        {"kind": "train", "step": 20, "epoch": 1.0, "loss": 3.0, "lr_decoder": 1e-3},
        {"kind": "eval", "step": 20, "epoch": 1.0, "val_loss": 2.5, "cider": 0.5, "best": True},
    ]
    for name in ("a/run", "b/run"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = []
    for runs in (["a/run"], ["a/run", "b/run"]):
        out = tmp_path / f"{len(runs)}.png"
        assert run("plot", *(tmp_path / name for name in runs), "--output", out) == 0
        sizes.append(Image.open(out).size)
        assert str(out) in capsys.readouterr().err
    assert sizes[0] != sizes[1]
    assert run("plot", tmp_path / "a/run", tmp_path, "--output", tmp_path / "x.png") == 1
    err = capsys.readouterr().err
    assert "no metrics of a run" in err and len(err.splitlines()) == 1 and not (tmp_path / "x.png").exists()


def test_demo(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage", reason="the extra `demo` is not installed")
    page = tmp_path / "demo.html"
    assert run("demo", "--model", model_folder, "--output", page) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) >= 4
    assert str(page) in err
    page_text = html.unescape(page.read_text())
    for line in out.splitlines():
        assert line.split("\t")[1] in page_text
    assert "http://" not in page_text.replace("http://www.w3.org", "")
    assert page_text.count("data:image/") >= 2 * len(out.splitlines()), "each photo and its attention maps"


def test_results_file_names_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptionkitError, match="cannot be written"):
        ResultsFile(tmp_path / "file" / "r.json")
