"""Standard streams that are closed, full or gone, and folders that may not be entered: one line each, no traceback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from captionkit import load
from captionkit.cli import main as cli
from captionkit.errors import ModelError
from tiers import slow

pytestmark = pytest.mark.skipif(os.name == "nt", reason="redirections of a POSIX shell")

COMMAND = f"{sys.executable} -m captionkit"
ORDINARY = "setpriv --inh-caps=-dac_override,-dac_read_search --bounding-set=-dac_override,-dac_read_search"
#: commands that answer at once, and what they print on
ANSWERS = [
    "--version",
    *slow(
        "caption --help",
        "inspect bundled",
        "score refs.json results.json --resamples 0 --metrics rouge",
        "caption a.png",
    ),
]


def shell(line: str, place: Path) -> subprocess.CompletedProcess[str]:
    """What a line of shell says in the folder `place`; CK stands for captionkit."""
    line = re.sub(r"(?<!\w)CK(?!\w)", lambda _: COMMAND, line)
    return subprocess.run(["/bin/sh", "-c", line], cwd=place, capture_output=True, text=True, timeout=300)


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The line on standard error that says why a command failed, its last, and the only one but for notes."""
    *notes, line = done.stderr.splitlines()
    assert all(note.startswith("captionkit: ") for note in notes)
    assert line.startswith("captionkit: ")
    return line


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An image, its references and its results."""
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "a.png")
    (tmp_path / "refs.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "a teal square"}]}'
    )
    (tmp_path / "results.json").write_text('[{"image_id": 1, "caption": "a teal square"}]')
    return tmp_path


@pytest.mark.parametrize("command", ANSWERS)
def test_an_answer_that_cannot_be_written_is_one_line(command: str, place: Path) -> None:
    closed = shell(f"CK {command} >&-", place)
    assert closed.returncode == 1
    assert "standard output: cannot be written (it is closed)" in only_line(closed)
    if Path("/dev/full").exists():
        full = shell(f"CK {command} >/dev/full", place)
        assert full.returncode == 1
        assert "standard output: cannot be written (No space left on device)" in only_line(full)


def test_closed_standard_input_is_one_line(place: Path) -> None:
    assert "standard input is closed" in only_line(shell("CK caption - <&-", place))


@pytest.mark.slow
def test_what_cannot_be_said_loses_no_answer(place: Path) -> None:
    """Standard error closed or full: the caption comes nevertheless, and nothing is printed in its place."""
    usual = shell("CK caption a.png", place).stdout
    assert len(usual.splitlines()) == 1
    for error in ("2>&-", "2>/dev/full") if Path("/dev/full").exists() else ("2>&-",):
        done = shell(f"CK caption missing.png a.png {error}", place)
        assert done.stdout == f"a.png\t{usual}"
        assert done.returncode == 1


def test_a_reader_that_has_enough_is_no_failure(place: Path) -> None:
    done = shell("CK caption a.png a.png a.png a.png | head -n 1", place)
    assert done.stdout.startswith("a.png\t")
    assert done.stderr == ""


@pytest.mark.slow
def test_a_pipe_of_the_shell_is_an_image(place: Path) -> None:
    usual = shell("CK caption a.png", place).stdout
    done = shell("cat a.png | CK caption /dev/stdin", place)
    assert (done.stdout, done.stderr) == (usual, "")


@pytest.mark.slow
def test_an_ordinary_user_meets_closed_folders(place: Path) -> None:
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root passes by all rights, and there is no setpriv")
    ordinary = ORDINARY if os.geteuid() == 0 else ""
    usual = shell("CK caption a.png", place).stdout
    photos = place / "photos"
    (photos / "closed").mkdir(parents=True)
    shutil.copy(place / "a.png", photos / "closed" / "b.png")
    shutil.copy(place / "a.png", photos)
    (photos / "closed").chmod(0)
    try:
        listed = shell(f"{ordinary} {COMMAND} caption photos/closed/b.png photos a.png", place)
        inspected = shell(f"{ordinary} {COMMAND} inspect photos/closed/b", place)
    finally:
        (photos / "closed").chmod(0o755)
    assert listed.returncode == 1
    assert listed.stdout == f"photos/a.png\t{usual}a.png\t{usual}"
    file, folder, summary = listed.stderr.splitlines()
    assert "photos/closed/b.png: cannot be read (Permission denied)" in file
    assert "photos/closed: cannot be read (Permission denied)" in folder
    assert "2 not captioned: photos/closed/b.png, photos/closed" in summary
    assert inspected.returncode == 1
    assert "Permission denied" in only_line(inspected)


@pytest.mark.parametrize("name", [".", "./", "/", "..", ""])
def test_folders_without_a_name_are_no_models(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "no model folder" if name else "an empty name"
    with pytest.raises(ModelError, match=reason):
        load(name)
    monkeypatch.chdir(place)
    try:
        status = cli.main(["caption", "a.png", "--model", name])
    except SystemExit as end:
        status = end.code
    assert status == (1 if name else 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("captionkit: ") and reason in line
