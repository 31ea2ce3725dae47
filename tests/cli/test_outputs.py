"""What is written: nothing that a run reads, and nothing that captionkit cannot prove to have made itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionkit.cli.main import main
from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference import model_folder
from captionkit.inference.model_folder import CARD, CONFIG, TOKENIZER, check_place, open_model, write_model
from captionkit.utils import atomic_write, output_checks
from captionkit.viz.animation import attention_gif
from captionkit.viz.attention_files import save_attention
from captionkit.viz.page import captions_page
from tiers import slow

CONTENTS = {TOKENIZER: b"{}", CARD: b"# a card\n"}


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its path, with a hash of what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(capsys: pytest.CaptureFixture[str], *named: str | Path) -> None:
    """One line was said, and it names these."""
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "Traceback" not in said, said
    assert all(str(name) in said for name in named), said


def photo(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def att(tmp_path: Path) -> Path:
    """A folder of images, two of which differ only in how their names end."""
    for seed, name in enumerate(("cat.jpg", "cat.png", "dog.png")):
        photo(tmp_path / "att" / name, seed)
    return tmp_path / "att"


# --- what captionkit drew, it knows again ---


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".npz"])
def test_a_drawing_is_known_again_and_a_photo_is_not(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGB", (40, 30), "red")
    words = [("dog", np.ones((2, 2), np.float32)), ("runs", np.eye(2, dtype=np.float32))]
    save_attention(tmp_path / f"drawn{suffix}", image, words, (0, 0, 40, 30), caption="dog runs")
    assert output_checks.is_drawing(tmp_path / f"drawn{suffix}")
    other = tmp_path / f"other{suffix}"
    if suffix == ".npz":
        np.savez(other, words=np.array(["x"]))
    else:
        image.save(other)
    assert not output_checks.is_drawing(other)
    other.write_bytes(b"no image")
    assert not output_checks.is_drawing(other)


def test_a_gif_that_stands_still_is_known_again(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(attention_gif(Image.new("RGB", (40, 30)), [], (0, 0, 40, 30)))
    assert output_checks.is_drawing(tmp_path / "a.gif")


def test_pages_are_known_again_those_of_earlier_versions_too(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page = captions_page("A title", [])
    earlier = captions_page("What captionkit sees", []).replace('<meta name="generator" content="captionkit">', "")
    for text, ours in ((page, True), (earlier, True), ("<title>My diary</title>", False), ("captionkit", False)):
        path.write_text(text)
        assert output_checks.is_page(path) is ours, text[:300]
    path.write_text("# A run\n\nWritten by captionkit 0.1; `captionkit report run` rewrites it.\n")
    assert output_checks.is_report(path)
    path.write_text("# My notes on a report\n\nWritten by me.\n")
    assert not output_checks.is_report(path)


@pytest.mark.parametrize(
    ("name", "text", "ours"),
    [
        ("a.json", '[{"image_id": 1, "caption": "a dog"},\n{"image_id": "x", "caption": "a cat"}]\n', True),
        ("a.json", "[]\n", True),
        ("a.json", '{"images": [], "annotations": []}', False),
        ("a.json", '[{"image_id": 1, "caption": "a dog", "id": 7}]', False),
        ("a.json", "Dear diary", False),
        ("a.json", "[" * 100_000, False),
        ("a.jsonl", '{"path": "a.jpg", "captions": []}\n{"path": "b.jpg", "error": "b.jpg: missing"}\n', True),
        ("a.jsonl", '{"prompt": "x"}\n', False),
        ("a.csv", "path,rank,caption,log_prob,confidence,error\r\n", True),
        ("a.csv", "image,caption\na.jpg,a dog\n", False),
        ("a.csv", "\xff", False),
    ],
)
def test_results_are_known_by_their_structure(tmp_path: Path, name: str, text: str, ours: bool) -> None:
    (tmp_path / name).write_text(text, encoding="latin-1")
    assert output_checks.replaceable(tmp_path / name, output_checks.is_captions) is ours
    if not ours:
        with pytest.raises(CaptionkitError, match=rf"{name}: is there already, and not written by captionkit"):
            output_checks.check_output_file(tmp_path / name, output_checks.is_captions)


@pytest.mark.parametrize("how", ["name", "relative", "symbolic link", "hard link"])
def test_an_input_is_no_output_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    source = tmp_path / "said.json"
    source.write_text("[]\n")
    other = tmp_path / "other.json"
    if how == "relative":
        monkeypatch.chdir(tmp_path)
        other = Path("../") / tmp_path.name / "said.json"
    elif how == "symbolic link":
        other.symlink_to("said.json")
    elif how == "hard link":
        other.hardlink_to(source)
    else:
        other = source
    with pytest.raises(CaptionkitError, match="is an input of this run"):
        output_checks.check_output_file(other, output_checks.is_captions, inputs=[source])


# --- model folders ---


def test_a_folder_of_other_things_is_refused_and_stays(tmp_path: Path) -> None:
    d = tmp_path / "d"
    (d / "photos").mkdir(parents=True)
    (d / "diary.txt").write_text("dear diary")
    (d / "photos" / "a.jpg").write_bytes(b"x")
    before = tree(tmp_path)
    for write in (check_place, lambda path: write_model(path, {}, CONTENTS)):
        with pytest.raises(CaptionkitError, match=r"d: holds diary\.txt, and no model that captionkit wrote"):
            write(d)
    (d / CONFIG).write_text('{"model_type": "blip"}')  # somebody else's model
    with pytest.raises(CaptionkitError, match="no model that captionkit wrote"):
        check_place(d)
    (d / CONFIG).unlink()
    assert tree(tmp_path) == before


def test_a_model_is_replaced_and_what_lies_beside_its_files_is_not_touched(tmp_path: Path) -> None:
    d = tmp_path / "d"
    write_model(d, {}, {**CONTENTS, "old.bin": b"old"})
    d.chmod(0o750)
    (d / "photos").mkdir()
    (d / "photos" / "a.jpg").write_bytes(b"x")
    os.mkfifo(d / "pipe")
    (d / "link").symlink_to("/nowhere")
    inode = (d / "photos" / "a.jpg").stat().st_ino
    check_place(d)
    write_model(d, {}, {**CONTENTS, TOKENIZER: b"[]"})
    assert open_model(d).read(TOKENIZER) == b"[]"
    assert sorted(path.name for path in d.iterdir()) == [CARD, CONFIG, "link", "photos", "pipe", TOKENIZER]
    assert (d / "photos" / "a.jpg").stat().st_ino == inode and d.stat().st_mode & 0o777 == 0o750
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_part_that_was_changed_is_refused_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    d = tmp_path / "d"
    write_model(d, {}, CONTENTS)
    (d / CARD).write_text("what I think of it")
    (d / "encoder.onnx").write_text("mine")
    with pytest.raises(CaptionkitError, match=r"README\.md: was not written by captionkit, or changed since"):
        check_place(d)
    write_model(d, {}, {**CONTENTS, "encoder.onnx": b"new"})  # as where hours of training would be lost otherwise
    open_model(d).verify()
    assert (d / f"{CARD}.kept").read_text() == "what I think of it"
    assert (d / "encoder.onnx.kept").read_text() == "mine"
    assert "it is kept as README.md.kept" in caplog.text


def test_links_to_a_model_and_in_it_are_written_through(tmp_path: Path) -> None:
    write_model(tmp_path / "real", {}, CONTENTS)
    (tmp_path / "real" / TOKENIZER).rename(tmp_path / "store")
    (tmp_path / "real" / TOKENIZER).symlink_to(tmp_path / "store")
    (tmp_path / "link").symlink_to("real")
    write_model(tmp_path / "link", {}, {**CONTENTS, TOKENIZER: b"[]"})
    open_model(tmp_path / "real").verify()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / TOKENIZER).is_symlink()
    assert (tmp_path / "store").read_bytes() == b"[]"


@pytest.mark.parametrize("at", range(4))
def test_a_model_that_was_killed_on_its_way_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    d, move, moves = tmp_path / "d", model_folder._move, iter(range(10))
    write_model(d, {}, {**CONTENTS, "old.bin": b"old"})

    def killed(path: Path, to: Path) -> None:
        if next(moves) == at:
            raise KeyboardInterrupt
        move(path, to)

    new = {**CONTENTS, TOKENIZER: b"[]", "new.bin": b"new"}
    with monkeypatch.context() as patched:
        patched.setattr(model_folder, "_move", killed)
        with pytest.raises(KeyboardInterrupt):
            write_model(d, {}, new)
    open_model(d).verify()
    assert open_model(d).read("new.bin") == b"new"
    assert sorted(path.name for path in d.iterdir()) == sorted([*new, CONFIG])


def test_a_hidden_neighbour_is_not_taken_for_what_was_set_aside(tmp_path: Path) -> None:
    """Reading removes nothing."""
    write_model(tmp_path / "d", {}, CONTENTS)
    write_model(tmp_path / ".d.old", {}, CONTENTS)
    (tmp_path / ".d.old" / "diary.txt").write_text("dear diary")
    (tmp_path / ".photos.old").mkdir()
    (tmp_path / ".photos.old" / "a.txt").write_text("mine")
    before = tree(tmp_path)
    open_model(tmp_path / "d")
    write_model(tmp_path / "d", {}, CONTENTS)
    with pytest.raises(ModelError):
        open_model(tmp_path / "photos")
    assert tree(tmp_path) == before


def test_average_refuses_before_it_averages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="the extra `train` is not installed")
    pytest.importorskip("accelerate", reason="the extra `train` is not installed")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "diary.txt").write_text("dear diary")
    photo(tmp_path / "data" / "a.jpg")
    before = tree(tmp_path)
    for output, said in (("d", "holds diary.txt"), ("data", "is an input of this run"), ("data/a.jpg", "is a file")):
        assert run("average", "bundled", "bundled", tmp_path / "data", "--output", tmp_path / output) == 1
        refused(capsys, tmp_path / output, said)
    assert tree(tmp_path) == before


def test_runs_sweeps_and_reports_replace_nothing_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("torch", "accelerate", "optuna"):
        pytest.importorskip(name, reason="the extra `train` is not installed")
    photo(tmp_path / "data" / "a.jpg")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "journal.jsonl").write_text('{"day": 1}\n{"day": 2, "cut')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("")
    (tmp_path / "run" / "report.md").write_text("What I think of it.\n")
    before = tree(tmp_path)
    assert run("train", tmp_path / "data", "--output", tmp_path / "data") == 1
    refused(capsys, tmp_path / "data", "is an input of this run")
    assert run("sweep", tmp_path / "data", "--output", tmp_path / "sweep") == 1
    refused(capsys, tmp_path / "sweep" / "journal.jsonl", "not written by captionkit")
    assert run("report", tmp_path / "run") == 1
    refused(capsys, tmp_path / "run" / "report.md", "not written by captionkit")
    assert tree(tmp_path) == before


# --- captions and drawings ---


def test_drawings_in_the_folder_of_the_images_take_other_names(att: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(att)
    assert run("caption", att, "--attention", att) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    first = tree(att)
    assert first.items() >= before.items() and len(first) == 6
    assert all(output_checks.is_drawing(att / name) for name in first.keys() - before.keys())
    assert run("caption", att, "--attention", att) == 0  # its drawings are neither captioned nor doubled
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3 and "3 drawings of an earlier run passed over" in said.err
    assert tree(att) == first


def test_names_with_numbers_do_not_meet(tmp_path: Path) -> None:
    one, other = photo(tmp_path / "a" / "cat.jpg", 1), photo(tmp_path / "a" / "cat-2.png", 2)
    for _ in range(2):
        assert run("caption", one, one, other, "--attention", tmp_path / "out") == 0
        drawn = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert drawn == ["cat-2-2.png", "cat-2.png", "cat.png"]


def test_a_drawing_replaces_no_image_and_no_input(att: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (att / "link.png").symlink_to("dog.png")
    before = tree(att)
    for place in (att / "cat.jpg", att / "cat.png", att / "link.png"):
        assert run("caption", att / "cat.jpg", "--attention", place) == 1
        refused(capsys, place)
    assert tree(att) == before
    assert run("caption", att / "cat.jpg", "--attention", att / "new.png") == 0
    assert run("caption", att / "dog.png", "--attention", att / "new.png") == 0  # which captionkit drew
    capsys.readouterr()
    assert run("caption", att / "new.png", "--attention", att / "new.png") == 1
    refused(capsys, att / "new.png", "is an input of this run")


@pytest.mark.slow
def test_a_list_of_images_may_name_the_folder_of_the_drawings(att: Path) -> None:
    before = tree(att)
    listed = "\n".join(str(att / name) for name in ("cat.jpg", "cat.png", "dog.png"))
    command = [sys.executable, "-m", "captionkit", "caption", "-", "--attention", str(att)]
    done = subprocess.run(command, input=listed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tree(att).items() >= before.items() and len(tree(att)) == 6


@pytest.mark.parametrize("name", ["old.json", *slow("old.jsonl", "old.csv")])
def test_a_run_without_captions_leaves_the_file_that_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    image = photo(tmp_path / "a.jpg")
    assert run("caption", image, "--output", tmp_path / name) == 0
    before = tree(tmp_path)
    assert run("caption", tmp_path / "no-such-folder", "--output", tmp_path / name) == 1
    assert f"{tmp_path / name}: stays as it was" in capsys.readouterr().err
    assert run("caption", image, "--force-words", "qqqqqq", "--output", tmp_path / name) == 1
    assert run("caption", image, "--model", tmp_path / "none", "--output", tmp_path / name) == 1
    assert tree(tmp_path) == before


def test_other_files_are_no_place_for_captions_or_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = photo(tmp_path / "a.jpg")
    mine = [tmp_path / name for name in ("diary.json", "diary.jsonl", "diary.csv", "diary.html", "folder/x.json")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("dear diary")
    before = tree(tmp_path)
    for path in mine[:3]:
        assert run("caption", image, "--output", path) == 1
        refused(capsys, path, "not written by captionkit")
    assert run("demo", "--output", mine[3]) == 1
    refused(capsys, mine[3], "not written by captionkit")
    assert run("caption", image, "--output", tmp_path / "folder" / "x.json" / "y.json") == 1
    refused(capsys, "y.json: cannot be written")
    assert tree(tmp_path) == before


def test_scores_of_each_image_replace_no_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "refs.csv").write_text("image,caption\na.jpg,a dog runs\nb.jpg,a cat sleeps\n")
    (tmp_path / "said.csv").write_text("image,caption\na.jpg,a dog runs\nb.jpg,a cat sits\n")
    (tmp_path / "link.csv").symlink_to("said.csv")
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    before = tree(tmp_path)
    command = ["score", tmp_path / "refs.csv", tmp_path / "said.csv", "--metrics", "bleu", "--resamples", "0"]
    for name in ("refs.csv", "said.csv", "link.csv", "mine.csv"):
        assert run(*command, "--per-image", tmp_path / name) == 1
        refused(capsys, tmp_path / name)
    assert tree(tmp_path) == before
    for _ in range(2):
        assert run(*command, "--per-image", tmp_path / "new.csv") == 0


@pytest.mark.slow
def test_an_evaluation_replaces_but_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "data" / "a.jpg")
    rows = [{"file_name": "a.jpg", "text": "a dog runs"}]
    (tmp_path / "data" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["evaluate", "bundled", tmp_path / "data", "--split", "all", "--metrics", "bleu", "--resamples", "0"]
    for name in ("results.json", "scores.json", "gallery.html"):
        mine = tmp_path / name.partition(".")[0]
        mine.mkdir()
        (mine / name).write_text("dear diary")
        assert run(*command, "--output", mine) == 1
        refused(capsys, mine / name, "not written by captionkit")
        assert tree(mine).keys() == {name} and (mine / name).read_text() == "dear diary"
    assert run(*command, "--output", tmp_path / "data") == 1
    refused(capsys, tmp_path / "data", "is an input of this run")
    for _ in range(2):
        assert run(*command, "--output", tmp_path / "done") == 0
    done = tree(tmp_path / "done")
    assert run("evaluate", "bundled", tmp_path / "data", "--split", "none", "--output", tmp_path / "done") == 1
    assert tree(tmp_path / "done") == done


@pytest.mark.parametrize("name", ["SIGTERM", *slow("SIGHUP", "SIGINT")])
def test_a_signal_keeps_the_captions_so_far(tmp_path: Path, name: str) -> None:
    """Twice, as `timeout` and the end of a terminal send it."""
    number = getattr(signal, name)
    image, old = photo(tmp_path / "a.jpg"), tmp_path / "old.json"
    old.write_text('[{"image_id": "old", "caption": "an old one"}]\n')
    command = [sys.executable, "-m", "captionkit", "caption", "-", "--batch-size", "1", "--output", str(old)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        for _ in range(40):  # more than are read ahead
            process.stdin.write(f"{image}\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(number)
        if name != "SIGINT":
            process.send_signal(number)
        assert process.wait(60) == 128 + number, process.stderr.read()
        assert "Traceback" not in process.stderr.read()
    kept = json.loads(old.read_text())
    assert kept and all(one["caption"] != "an old one" for one in kept)


@pytest.mark.slow
def test_a_signal_before_the_first_caption_leaves_the_earlier_file(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text('[{"image_id": "old", "caption": "an old one"}]\n')
    command = [sys.executable, "-m", "captionkit", "caption", "-", "--output", str(old)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(1.5)  # long enough to begin, or not: the file stays either way
        process.terminate()
        assert process.wait(60) in (143, -15)
    assert "an old one" in old.read_text()


def test_captions_go_into_a_pipe_once(tmp_path: Path) -> None:
    image, pipe = photo(tmp_path / "a.jpg"), tmp_path / "pipe.json"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "captionkit", "caption", str(image), "--output", str(pipe)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        said = json.loads(pipe.read_text())
        assert process.wait(60) == 0
    assert said[0]["image_id"] == "a" and pipe.is_fifo()


def test_curves_replace_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    (tmp_path / "run").mkdir()
    row = {"kind": "train", "step": 1, "epoch": 0.5, "loss": 3.0, "lr_decoder": 1e-3, "lr_encoder": 0.0}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    mine = photo(tmp_path / "curves.png")
    before = tree(tmp_path)
    assert run("plot", tmp_path / "run", "--output", mine) == 1
    refused(capsys, mine, "not written by captionkit")
    assert tree(tmp_path) == before
    for _ in range(2):
        assert run("plot", tmp_path / "run", "--output", tmp_path / "new.png") == 0


def test_a_place_that_is_out_of_reach_is_known_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(CaptionkitError, match="cannot be written"):
        output_checks.check_output_file(tmp_path / ("x" * 300 + ".json"), output_checks.is_captions)
    with pytest.raises(CaptionkitError, match="is a folder; name a file"):
        output_checks.check_output_file(tmp_path, output_checks.is_captions)
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    output_checks.check_output_file(tmp_path / "gone" / "x.json", output_checks.is_captions)
    assert not (tmp_path / "gone").exists()
    atomic_write.write_text(tmp_path / "gone" / "x.json", "[]")


def test_a_model_in_the_hubs_cache_is_not_written_to(tmp_path, photos, capsys):
    """Its files are links to what other revisions share."""
    cached = tmp_path / "models--owner--name"
    shutil.copytree(model_folder.BUNDLED, cached / "blobs")
    snapshot = cached / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for blob in (cached / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(blob)
    before = tree(cached)
    data = shutil.copytree(photos, tmp_path / "data")
    image, caption = {"id": 1, "file_name": "one.jpg"}, {"image_id": 1, "caption": "a photo"}
    (data / "captions_val.json").write_text(json.dumps({"images": [image], "annotations": [caption]}))
    for command in (
        ["tune", snapshot, data, "--write"],
        ["calibrate", snapshot, data, "--write"],
        ["export", snapshot],
    ):
        assert run(*command) == 1
        said = capsys.readouterr().err
        assert f"{snapshot}: belongs to the Hub's cache and is not written to; use a copy" in said
        assert said.count("\n") == 1
    assert tree(cached) == before
