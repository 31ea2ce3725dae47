"""Captions in text files beside their images: which are written, what stays, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import captionkit
from captionkit.cli import main as cli
from captionkit.data.layouts import open_dataset
from captionkit.errors import CaptionkitError
from captionkit.publish.merging import Existing, merged, worded
from captionkit.publish.publisher import Wording, inside
from captionkit.publish.text_sidecars import TextSidecars, sidecar_suffix

EXAMPLE = Path(captionkit.__file__).parent / "assets" / "examples" / "cat.jpg"


def said(text: str) -> Wording:
    return Wording(text, f"{text}.", text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images, two of them captioned by someone."""
    root = tmp_path / "photos"
    for name in ("a.jpg", "b.jpg", "in/c.jpg", "in/d.jpg", "in/deep/e.jpg", "in/deep/f.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE, root / name)
    (root / "b.txt").write_text("my own words")
    (root / "in/deep/e.txt").write_bytes("\ufeffäußerst\r\n".encode())
    return root


def test_a_tree_gets_the_captions_that_it_lacks_and_keeps_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.txt")}
    assert cli.main(["caption", str(folder), "--sidecar", "txt", "--prepend", "ohwx_7,"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 4 and "4 images with a text written; 2 images" in err
    texts = {path: path.read_bytes() for path in folder.rglob("*.txt")}
    assert len(texts) == 6 and {path: texts[path] for path in before} == before
    caption = captionkit.load().caption(EXAMPLE).text
    assert {text for path, text in texts.items() if path not in before} == {f"ohwx_7, {caption}\n".encode()}
    dataset = open_dataset(folder)
    assert sum(len(example.captions) for example in dataset["all"]) == 6 and not dataset.problems
    times = {path: path.stat().st_mtime_ns for path in texts}
    assert cli.main(["caption", str(folder), "--sidecar", ".txt"]) == 0
    assert capsys.readouterr().out == "" and times == {path: path.stat().st_mtime_ns for path in texts}


def test_a_dry_run_and_another_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["caption", str(folder), "--sidecar", ".caption", "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert "6 images with a text would be written" in told and f"{folder}/in/c.caption: '" in told
    assert not list(tmp_path.rglob("*.caption"))
    assert cli.main(["caption", str(folder), "--sidecar", ".caption", "--output-dir", str(tmp_path / "texts")]) == 0
    names = {path.relative_to(tmp_path / "texts").as_posix() for path in tmp_path.rglob("*.caption")}
    assert names == {"a.caption", "b.caption", "in/c.caption", "in/d.caption", "in/deep/e.caption", "in/deep/f.caption"}


@pytest.mark.slow
def test_a_kill_leaves_whole_files_and_the_next_run_writes_the_rest(tmp_path: Path) -> None:
    for number in range(60):
        shutil.copy(EXAMPLE, tmp_path / f"{number:02}.jpg")
    command = [sys.executable, "-m", "captionkit", "caption", str(tmp_path), "--sidecar", ".txt", "--batch", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("*.txt")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    written = {path: (path.read_text(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.txt")}
    assert 0 < len(written) < 60
    assert cli.main(command[3:]) == 0
    texts = {path.read_text() for path in tmp_path.glob("*.txt")}
    assert len(list(tmp_path.glob("*.txt"))) == 60 and texts == {f"{captionkit.load().caption(EXAMPLE).text}\n"}
    assert {path: (path.read_text(), path.stat().st_mtime_ns) for path in written} == written


@pytest.mark.parametrize(
    ("existing", "expected"),
    [("skip", None), ("overwrite", "new"), ("append", "1girl, solo, new"), ("prepend", "new, 1girl, solo")],
)
def test_what_becomes_of_a_text_that_is_there(existing: Existing, expected: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1girl, solo\n")
    path.chmod(0o640)
    image = tmp_path / "a.jpg"
    sidecars = TextSidecars(existing=existing)
    assert sidecars.is_open(image, Path("a.jpg")) is (expected is not None)
    changes = sidecars.write(image, Path("a.jpg"), said("new"))
    assert path.read_text() == f"{expected or '1girl, solo'}\n" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [(change.before, change.after) for change in changes] == ([("1girl, solo", expected)] if expected else [])
    assert not sidecars.write(image, Path("a.jpg"), said("new"))  # a second time changes nothing
    assert merged(" \n", "new", existing) == "new"  # nothing is no text


def test_texts_around_a_caption_are_literal() -> None:
    assert worded("a dog", prepend="ohwx") == "ohwx a dog"
    assert worded("a dog", prepend="[V]\t", append=", {x}") == "[V]\ta dog, {x}"
    assert worded("a dog", append="8k") == "a dog 8k"


def test_links_are_kept_and_an_empty_file_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "note.txt"
    target.touch()
    (tmp_path / "a.txt").symlink_to(target)
    assert TextSidecars().write(tmp_path / "a.jpg", Path("a.jpg"), said("a dog"))
    assert (tmp_path / "a.txt").is_symlink() and target.read_text() == "a dog\n"


def test_two_images_with_one_text_file_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.jpg", "a.jpeg", "b.jpg"):
        shutil.copy(EXAMPLE, tmp_path / name)
    for _ in range(2):
        assert cli.main(["caption", str(tmp_path), "--sidecar", ".txt"]) == 1
        assert "a.jpg: its caption belongs into" in capsys.readouterr().err
    assert len(list(tmp_path.glob("*.txt"))) == 2


def test_a_file_that_cannot_be_written_does_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.txt").mkdir()
    (folder / "in/c.txt").write_bytes(b"\xff\xfe\xff")
    assert cli.main(["caption", str(folder), "--sidecar", ".txt", "--json"]) == 1
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert ["error" in record for record in records] == [True, True, False, False]
    assert (
        f"{folder}/a.txt: is a folder" in err
        and "c.txt: cannot be read (not UTF-8)" in err
        and "2 not captioned" in err
    )
    assert (folder / "in/c.txt").read_bytes() == b"\xff\xfe\xff"


@pytest.mark.parametrize("suffix", [".jpg", ".HEIC", ".json", ".", "..", "/x", ".a/b", ".xmp", ".b.png"])
def test_suffixes_of_other_files_are_refused(suffix: str) -> None:
    with pytest.raises(CaptionkitError, match="--sidecar"):
        sidecar_suffix(suffix)


def test_options_that_need_another_are_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, told in (
        (["--prepend", "x"], "--prepend is for"),
        (["--existing", "skip"], "--existing is for"),
        (["--output-dir", "x"], "--output-dir is for"),
        (["--dry-run"], "--dry-run is for"),
        (["--max-chars", "30"], "add --style alt"),
        (["--style", "alt", "--max-chars", "3"], "use a whole number from 30"),
        (["--sidecar", ".txt", "--output-dir", __file__], "is a file where a folder is wanted"),
    ):
        assert cli.main(["caption", "nothing.jpg", *flags]) == 1
        assert told in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="POSIX paths")
def test_a_mirrored_path_never_leaves_its_folder() -> None:
    for path, root, expected in (
        ("photos/in/a.jpg", "photos", "in/a.jpg"),
        ("/x/photos/a.jpg", "/x/photos", "a.jpg"),
        ("/x/a.jpg", "photos", "a.jpg"),
        ("../../a.jpg", "", "a.jpg"),
        ("in/../../a.jpg", ".", "a.jpg"),
        ("./in/a.jpg", "", "in/a.jpg"),
    ):
        assert inside(path, root).as_posix() == expected
