"""Files of a folder in one order, however many there are and whatever they are called."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from captionkit.bulk import tree
from captionkit.bulk.tree import Entry, LocalTree, RemoteTree, in_order, walk

NAMES = ["a.jpg", "a.png", "a-1.jpg", "a.b.jpg", "é.jpg", "z\ny.jpg", "über", "\udce9.jpg", "B.jpg", "a"]


def test_large_folders_are_sorted_as_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        Entry(name, size, folder=size % 7 == 0, link=size % 5 == 0, identity=size << 64)
        for size, name in enumerate(NAMES)
    ]
    entries += [Entry(f"{number:04d}.jpg", number) for number in range(100)]
    wanted = list(in_order(entries))
    monkeypatch.setattr(tree, "_AT_ONCE", 7)
    random.Random(0).shuffle(entries)
    assert list(in_order(entries)) == wanted
    assert sorted(wanted) == sorted(entries)


def test_files_of_one_stem_stand_together(tmp_path: Path) -> None:
    for name in ("a.png", "a-1.jpg", "a.b.jpg", "a.jpg"):
        (tmp_path / name).touch()
    found = [file.path for file in walk(LocalTree(str(tmp_path)))]
    assert abs(found.index("a.png") - found.index("a.jpg")) == 1


def test_every_file_comes_once_in_a_folder_with_loops_of_links(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "1.jpg").touch()
    (tmp_path / "2.jpg").touch()
    (tmp_path / "a").symlink_to(tmp_path / "b")  # sorts before its target
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "3.jpg").touch()
    assert [file.path for file in walk(LocalTree(str(tmp_path)))] == ["2.jpg", "self", "b/c/1.jpg"]


def test_a_linked_folder_elsewhere_is_walked_last(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.jpg").touch()
    (tmp_path / "root" / "z").mkdir(parents=True)
    (tmp_path / "root" / "z" / "2.jpg").touch()
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere")
    assert [file.path for file in walk(LocalTree(str(tmp_path / "root")))] == ["z/2.jpg", "a/1.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_closed_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0)
    [file] = walk(LocalTree(str(tmp_path)))
    assert file.path == "a/" and "Permission denied" in file.error


def test_remote_folders_are_walked_in_the_same_order(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for name in ("b.jpg", "a.jpg", "sub/c.jpg", ".hidden.jpg"):
        store.pipe_file(f"/tree-test/{name}", name.encode())
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    remote = list(walk(RemoteTree("memory://tree-test")))
    assert remote == list(walk(LocalTree(str(tmp_path))))
    assert [file.path for file in remote] == ["a.jpg", "b.jpg", "sub/c.jpg"]
