"""Watching a folder: images are captioned once they are whole, and a restart goes on with what came meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import captionkit
from captionkit.cli import main as cli
from captionkit.cli.caption_writer import WriteOptions
from captionkit.cli.watch import watch_folder
from captionkit.publish.arrivals import Arrivals, images_below, is_arrival, is_being_written

EXAMPLE = Path(captionkit.__file__).parent / "assets" / "examples" / "cat.jpg"


def test_a_file_is_ready_once_it_has_not_changed_for_a_while(tmp_path: Path) -> None:
    path, arrivals = tmp_path / "a.jpg", Arrivals(quiet=2)
    path.write_bytes(b"half")
    arrivals.see([path], 0)
    assert arrivals.ready(1.9) == []
    path.write_bytes(b"all of it")
    assert arrivals.ready(2.5) == [] and arrivals.ready(4.4) == []
    assert arrivals.ready(4.6) == [path] and arrivals.ready(9) == []
    arrivals.see([path], 10)
    assert arrivals.ready(20) == []  # nothing new about it
    path.write_bytes(b"another image")
    arrivals.see([path], 21)
    assert arrivals.ready(24) == [path]


def test_a_file_that_is_empty_gone_or_open_for_writing_is_not_ready(tmp_path: Path) -> None:
    empty, gone, held = (tmp_path / f"{name}.jpg" for name in ("empty", "gone", "held"))
    empty.touch()
    gone.write_bytes(b"x")
    with held.open("wb") as file:
        file.write(b"x")
        file.flush()
        arrivals = Arrivals(quiet=1)
        arrivals.see([empty, gone, held], 0)
        gone.unlink()
        expected = [] if sys.platform == "linux" else [held]
        assert is_being_written(held) is (sys.platform == "linux") and arrivals.ready(5) == expected
    assert not is_being_written(held) and not is_being_written(gone)
    assert [*expected, *arrivals.ready(6)] == [held]


def test_hidden_names_and_other_kinds_do_not_arrive(tmp_path: Path) -> None:
    for name in ("a.jpg", "B.HEIC", ".c.jpg", "d.txt", "e.jpg.part", "in/f.png", ".in/g.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in images_below(tmp_path)] == ["B.HEIC", "a.jpg", "in/f.png"]
    assert not is_arrival(".a.jpg")


def until(condition: Callable[[], object]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened for a minute")


@contextmanager
def watched(folder: Path, write: WriteOptions) -> Iterator[None]:
    stop, failures = threading.Event(), []

    def run() -> None:
        try:
            watch_folder(folder, write, quiet=0.2, stop=stop)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not failures and not thread.is_alive()


def test_what_lies_there_and_what_arrives_is_captioned(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("watchfiles", reason="the extra `watch` is not installed")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("before.jpg", "mine.jpg"):
        shutil.copy(EXAMPLE, folder / name)
    (folder / "mine.txt").write_text("mine")
    content = EXAMPLE.read_bytes()
    with watched(folder, WriteOptions(sidecar=".txt", prepend="ohwx")):
        until((folder / "before.txt").exists)
        (tmp_path / "moved" / "deep").mkdir(parents=True)
        shutil.copy(EXAMPLE, tmp_path / "moved" / "deep" / "b.jpg")
        (tmp_path / "moved").rename(folder / "moved")
        with (folder / "slow.jpg").open("wb") as file:
            file.write(content[:2000])
            file.flush()
            until((folder / "moved" / "deep" / "b.txt").exists)
            if sys.platform == "linux":
                time.sleep(1)
                assert not (folder / "slow.txt").exists()
            file.write(content[2000:])
        (folder / "broken.jpg").write_bytes(content[:2000])
        until((folder / "slow.txt").exists)
        until(lambda: "broken.jpg: truncated" in capfd.readouterr().err)
        shutil.copy(EXAMPLE, folder / "broken.jpg")
        until((folder / "broken.txt").exists)
    caption = captionkit.load().caption(EXAMPLE).text
    texts = {path.name: path.read_text() for path in folder.rglob("*.txt")}
    assert texts.pop("mine.txt") == "mine" and set(texts.values()) == {f"ohwx {caption}\n"} and len(texts) == 4


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_restart_goes_on_with_what_came_meanwhile(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles", reason="the extra `watch` is not installed")
    command = [sys.executable, "-m", "captionkit", "watch", str(tmp_path), "--sidecar", ".txt"]
    times = {}
    for number, end in enumerate((signal.SIGKILL, signal.SIGTERM)):
        shutil.copy(EXAMPLE, tmp_path / f"{number}.jpg")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until((tmp_path / f"{number}.txt").exists)
        process.send_signal(end)
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err and process.returncode != 0
        times[number] = (tmp_path / f"{number}.txt").stat().st_mtime_ns
    assert times[0] == (tmp_path / "0.txt").stat().st_mtime_ns


def test_what_cannot_be_watched_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, told in (
        ([str(tmp_path)], "add --sidecar .txt or --write xmp"),
        ([str(tmp_path / "none"), "--sidecar", ".txt"], "is no folder"),
        ([str(EXAMPLE), "--sidecar", ".txt"], "is no folder"),
    ):
        assert cli.main(["watch", *arguments]) == 1
        assert told in capsys.readouterr().err
