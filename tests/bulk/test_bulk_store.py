"""Places for outputs: locks, leftovers, and stores that fail for a while."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from bulk_stub import settings, union, write_images
from captionkit.bulk import remote
from captionkit.bulk.run import caption_dataset
from captionkit.bulk.store import LocalStore, open_store
from captionkit.errors import CaptionkitError, ImageError

_HOLD = """
import sys, time
from captionkit.bulk.store import LocalStore
with LocalStore(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_runs_on_one_output_are_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path / "output")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(CaptionkitError, match="another run writes here"),
            LocalStore(str(tmp_path / "output")).lock(),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    with LocalStore(str(tmp_path / "output")).lock():
        pass


def test_leftovers_of_parts_are_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in (".part-000001.jsonl.0a1b2c3d.partial", ".mine.partial", "part-000001.jsonl.partial"):
        (tmp_path / name).touch()
    with LocalStore(str(tmp_path)).lock():
        pass
    assert {path.name for path in tmp_path.iterdir()} - {".captionkit-bulk.lock"} == {
        ".mine.partial",
        "part-000001.jsonl.partial",
    }


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    temporary = store.scratch("part-000000.jsonl")
    temporary.write_text("ours")
    (tmp_path / "part-000000.jsonl").write_text("theirs")
    with pytest.raises(CaptionkitError, match="has appeared"):
        store.create("part-000000.jsonl", temporary)
    assert (tmp_path / "part-000000.jsonl").read_text() == "theirs"


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "sub").symlink_to(tmp_path)
    store = LocalStore(str(tmp_path / "output"))
    for name in ("../a.txt", "sub/a.txt"):
        with pytest.raises(CaptionkitError, match="leads out of"):
            store.write(name, b"x")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0, 0.0, 0.0))
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def make_flaky(memory, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], int]:
    """Make the first three listings of a folder, and openings of a file, fail; return how often each was tried."""
    failures: dict[tuple[str, str], int] = {}

    def failing(method: str):
        usual = getattr(type(memory), method)

        def call(self, path, *arguments, **options):
            key = (method, str(path))
            failures[key] = failures.get(key, 0) + 1
            if failures[key] <= 3:
                raise ConnectionResetError("the store is busy")
            return usual(self, path, *arguments, **options)

        monkeypatch.setattr(type(memory), method, call)

    failing("ls")
    failing("_open")
    return failures


def test_a_store_that_fails_three_times_loses_nothing(memory, monkeypatch, tmp_path: Path) -> None:
    write_images(tmp_path / "images", 20)
    local = str(tmp_path / "local")
    flaky = make_flaky(memory, monkeypatch)
    caption_dataset(str(tmp_path / "images"), local, settings())
    caption_dataset(str(tmp_path / "images"), "memory://flaky-output", settings())
    found = sorted(
        line
        for name in open_store("memory://flaky-output").names()
        if name.startswith("part-")
        for line in (open_store("memory://flaky-output").open(name)).read().splitlines()
    )
    assert found == union(Path(local))
    assert max(flaky.values()) > 3


def test_remote_images_are_read_again_after_failures(memory, monkeypatch) -> None:
    for number in range(10):
        memory.pipe_file(f"/flaky-input/{number}.jpg", b"image %d" % number)
    make_flaky(memory, monkeypatch)
    summary = caption_dataset("memory://flaky-input", "memory://flaky-output", settings())
    assert (summary.images, summary.failed) == (10, 0)


def test_remote_shards_are_read_again_after_failures(memory, monkeypatch, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(10):
            content = b"image %d" % number
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    memory.pipe_file("/flaky-shards/0.tar", (tmp_path / "0.tar").read_bytes())
    caption_dataset(str(tmp_path / "0.tar"), str(tmp_path / "local"), settings())
    flaky = make_flaky(memory, monkeypatch)
    summary = caption_dataset("memory://flaky-shards", str(tmp_path / "remote"), settings())
    assert (summary.images, summary.failed) == (10, 0) and max(flaky.values()) > 3

    def captions(output: str) -> list[object]:
        return [json.loads(line)["captions"] for line in union(tmp_path / output)]

    assert captions("remote") == captions("local")


def test_a_store_that_keeps_failing_is_named_with_the_cause(memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object):
        raise ConnectionResetError("down")

    monkeypatch.setattr(type(memory), "_open", fail)
    with pytest.raises(ImageError, match=r"memory://x/a.jpg: .*tried 5 x: ConnectionResetError: down"):
        remote.read_remote("memory://x/a.jpg", limit=10)


def test_a_remote_lock_holds_while_its_run_lives(memory) -> None:
    store = open_store("memory://locked")
    refused = pytest.raises(CaptionkitError, match=f"process {os.getpid()} on")
    with store.lock(), refused, open_store("memory://locked").lock():
        pass
    with store.lock():
        pass
    old = {"owner": "another", "host": "h", "process": 1, "time": time.time() - 3600}
    store.write("manifest/lease.json", json.dumps(old).encode())
    with store.lock():  # that run is dead
        pass


def test_addresses_of_unknown_kinds_are_refused_in_one_line() -> None:
    with pytest.raises(CaptionkitError) as refused:
        open_store("nosuch://bucket/x")
    assert "\n" not in str(refused.value)


def _caption(images: str, output: str) -> None:
    caption_dataset(images, output, settings())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_ends_the_run_in_one_line_and_loses_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 300)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(CaptionkitError, match=r"No space left on device.*free space") as full:
            _caption(str(tmp_path / "images"), str(disk / "output"))
        assert "\n" not in str(full.value)
        assert not list((disk / "output").glob(".*.partial"))
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        _caption(str(tmp_path / "images"), str(disk / "output"))
        _caption(str(tmp_path / "images"), str(tmp_path / "undisturbed"))
        assert union(disk / "output") == union(tmp_path / "undisturbed")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_output_without_rights_is_refused_before_any_work(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 3)
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(CaptionkitError) as refused:
            _caption(str(tmp_path / "images"), str(output))
        assert "\n" not in str(refused.value)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid():
        with pytest.raises(CaptionkitError, match="Permission denied"):
            _caption(str(tmp_path / "images"), str(closed / "output"))
    assert (tmp_path / "file").read_text() == "mine"
