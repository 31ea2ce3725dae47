"""Worker processes: what ends them is found, and a run that is killed at any moment loses and repeats nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bulk_stub import settings, union, write_images
from captionkit.bulk.pool import LocalPool
from captionkit.bulk.run import caption_dataset
from captionkit.bulk.worker import Board
from captionkit.errors import CaptionkitError

_RUN = """
import sys
sys.path.insert(0, sys.argv[3])
from bulk_stub import load_slow_stub, settings
from captionkit.bulk.pool import LocalPool
from captionkit.bulk.run import caption_dataset
if __name__ == "__main__":
    caption_dataset(sys.argv[1], sys.argv[2], settings(engine=LocalPool, workers=2, load=load_slow_stub))
"""


def start(images: Path, output: Path, script: Path) -> subprocess.Popen[bytes]:
    script.write_text(_RUN)
    helpers = str(Path(__file__).parents[1] / "helpers")
    command = [sys.executable, str(script), str(images), str(output), helpers]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def test_images_that_end_their_worker_become_errors(tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "output"
    write_images(images, 40)
    (images / "00003.jpg").write_bytes(b"kill")  # while it is opened
    (images / "00006.jpg").write_bytes(b"bad")
    summary = caption_dataset(str(images), str(output), settings(engine=LocalPool, workers=2))
    assert (summary.images, summary.failed) == (40, 2)
    errors = {record["id"]: record["error"] for record in map(json.loads, union(output)) if "error" in record}
    assert errors["00003.jpg"] == (
        f"{images}/00003.jpg: ended the process that captioned it, twice (SIGSEGV); look at it or leave it out"
    )
    assert errors["00006.jpg"] == f"{images}/00006.jpg: is bad"


@pytest.mark.slow
def test_an_image_that_ends_its_worker_in_the_model_is_found(tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "output"
    write_images(images, 30)
    (images / "sub1" / "00010.jpg").write_bytes(b"model")
    summary = caption_dataset(str(images), str(output), settings(engine=LocalPool, workers=1))
    assert (summary.images, summary.failed) == (30, 1)
    [failed] = [record for record in map(json.loads, union(output)) if "error" in record]
    assert failed["id"] == "sub1/00010.jpg" and "SIGSEGV" in failed["error"]


def test_a_worker_that_cannot_write_ends_the_run_in_one_line(tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "output"
    write_images(images, 20)
    output.mkdir()

    class Sabotaged(LocalPool):
        def run(self, parts):
            (output / "part-000000.jsonl").mkdir()
            yield from super().run(parts)

    with pytest.raises(CaptionkitError) as refused:
        caption_dataset(str(images), str(output), settings(engine=Sabotaged, workers=1))
    assert "part-000000.jsonl" in str(refused.value) and "\n" not in str(refused.value)


def test_a_board_tells_what_was_at_work() -> None:
    numbers = [0] * Board.size(2)
    board = Board(numbers)
    with board.opening(4, 7), board.opening(5, 0):
        assert (Board(numbers).seen_opening(4), Board(numbers).seen_opening(5)) == ((7,), (0,))
    assert not Board(numbers).seen_opening(4) and Board(numbers).seen_alone(4) is None
    with board.alone(4, 2):
        assert Board(numbers).seen_alone(4) == 2 and Board(numbers).seen_alone(3) is None


@pytest.mark.slow
def test_workers_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 2000)
    driver = start(tmp_path / "images", tmp_path / "output", tmp_path / "run.py")
    _wait_for(lambda: list((tmp_path / "output").glob("part-*.jsonl")))
    workers = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers and not alive


def _wait_for(happened) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_at_random_moments_a_run_writes_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "output"
    write_images(images, 6000)
    caption_dataset(str(images), str(tmp_path / "whole"), settings())
    chance, kills, closed = random.Random(0), 0, set[str]()
    driver = start(images, output, tmp_path / "run.py")
    while kills < 20:
        time.sleep(chance.uniform(0.3, 1.5))
        assert driver.poll() is None or kills >= 10, "ended before enough kills; give it more images"
        if driver.poll() is not None:
            break
        children = psutil.Process(driver.pid).children(recursive=True)
        victim = chance.choice([driver.pid, *(child.pid for child in children)])
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
        kills += 1
        if victim == driver.pid:
            driver.wait()
            named = {index for path in (output / "manifest").glob("*.json") for index in json.loads(path.read_text())}
            assert closed <= named  # what was named stays named
            closed = named
            driver = start(images, output, tmp_path / "run.py")
    assert driver.wait() == 0
    names = sorted(path.name for path in (tmp_path / "whole").glob("part-*"))
    assert [path.name for path in sorted(output.glob("part-*"))] == names
    assert union(output) == union(tmp_path / "whole")
    assert not list(output.glob(".part*"))
