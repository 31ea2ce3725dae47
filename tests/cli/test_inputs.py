"""What the command line names, as images: folders, patterns, archives and standard input."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captionkit.cli.inputs import find_inputs
from captionkit.data.images import open_image
from captionkit.data.layouts import open_dataset
from captionkit.utils import paths
from captionkit.utils.paths import PLAIN_SUFFIXES

#: Pillow's name of the format that a suffix stands for, where that is not the suffix
FORMATS = {
    **dict.fromkeys((".jpg", ".jpe", ".jfif"), "JPEG"),
    ".apng": "PNG",
    ".tif": "TIFF",
    **dict.fromkeys((".pgm", ".pbm", ".pnm"), "PPM"),
}


def encoded(suffix: str) -> bytes:
    """A small image in the format that `suffix` stands for."""
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), "teal").save(buffer, FORMATS.get(suffix, suffix[1:].upper()))
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", PLAIN_SUFFIXES)
def test_a_suffix_means_an_image_in_folders_datasets_and_archives_alike(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    folder, shard = tmp_path / "images", tmp_path / "shard-000.tar"
    folder.mkdir()
    image = folder / f"a{suffix.upper()}"
    image.write_bytes(encoded(suffix))
    with tarfile.open(shard, "w") as archive:
        archive.add(image, image.name)
    assert open_image(image).size == (12, 8)
    assert [given.name for given in find_inputs([str(folder)])] == [str(image)]
    assert [given.name for given in find_inputs([str(shard)])] == [f"{shard}/{image.name}"]
    for place in (folder, shard):
        (only,) = open_dataset(place).values()
        assert [example.name for example in only] == [image.name]


def names(place: object) -> list[str]:
    """The images that are found, and the errors, each without the folder of the test."""
    return [given.error or given.name for given in find_inputs([str(place)])]


def piped(content: bytes) -> list[str] | bytes:
    """What standard input stands for: the bytes of an image, or paths."""
    found = list(find_inputs(["-"], io.BytesIO(content)))
    assert not any(given.error for given in found)
    if found[0].name == "-":
        (only,) = found
        assert isinstance(only.source, bytes)
        return only.source
    return [given.name for given in found]


NAMES = [
    "Screenshot 2024-01-02 at 3.04.05\u202fPM.png",
    "a\u00a0b.jpg",
    "\U0001f469\u200d\U0001f4bb.jpg",
    "\u200fשלום.jpg",
    "a\tb.jpg",
    "BMW.jpg",
    "P2 of 3.jpg",
    "GIF89a party.gif",
    "RIFF.webp",
    "MM.jpg",
    "[2024] a.jpg",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "written",
    [
        lambda lines: "\n".join([*lines, ""]).encode(),
        lambda lines: "\n".join(lines).encode(),
        lambda lines: "\r\n".join([*lines, ""]).encode(),
        lambda lines: "\n".join(["", *lines, "", ""]).encode(),
        lambda lines: "\n".join(lines).encode("utf-8-sig"),
        lambda lines: "\r\n".join([*lines, ""]).encode("utf-16"),
        lambda lines: "\ufeff".encode("utf-16-be") + "\n".join(lines).encode("utf-16-be"),
        lambda lines: "\0".join([*lines, ""]).encode(),
    ],
    ids=["lines", "no end", "windows", "blank", "utf-8 mark", "utf-16", "utf-16-be", "nul"],
)
def test_a_list_is_a_list_whatever_its_first_name_and_form(name: str, written: Callable[[list[str]], bytes]) -> None:
    assert piped(written([name, "other.jpg"])) == [name, "other.jpg"]
    assert piped(written([name])) == [name]


def test_lists_without_a_mark_of_their_encoding() -> None:
    listed = ["C:\\photos\\a.jpg", "C:\\photos\\b.jpg"]
    for encoding in ("utf-16-le", "utf-16-be"):
        assert piped("\r\n".join(listed).encode(encoding)) == listed
    latin = b"caf\xe9.jpg\nna\xefve.jpg\n"
    assert piped(latin) == [os.fsdecode(line) for line in latin.splitlines()]
    assert piped(latin.replace(b"\n", b"\0")) == [os.fsdecode(line) for line in latin.splitlines()]
    assert piped(b"./b.jpg\0./two\nlines.jpg\0") == ["./b.jpg", "./two\nlines.jpg"]  # what -print0 is for


@pytest.mark.parametrize("suffix", PLAIN_SUFFIXES)
def test_an_image_is_an_image(suffix: str) -> None:
    assert piped(encoded(suffix)) == encoded(suffix)


@pytest.mark.parametrize(
    "content",
    [
        b"P2\n2 2\n255\n0 255\n255 0\n",
        b"P1\n# drawn by hand\n2 2\n0 1 1 0\n",
        b"BM\n" + bytes(60),
        b"GIF89a\n\0\x01\0" + bytes(20),
        b"<!DOCTYPE html>\n<title>Sign in</title>\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        bytes(2000),
        b"a.jpg" + bytes(95) + b"0000644\0" + bytes(400),  # the header of a tar
        bytes(range(256)) * 8,
    ],
)
def test_what_is_no_list_is_taken_for_an_image(content: bytes) -> None:
    assert piped(content) == content


def test_a_list_is_served_as_it_comes() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream, os.fdopen(write, "wb", 0) as writer:
        found = find_inputs(["-"], stream)
        for name in ("1.jpg", "2.jpg"):
            writer.write(f"{name}\n".encode())
            assert next(found).name == name


def test_an_empty_and_an_endless_list() -> None:
    for content in (b"", b"\n\n", b"\xef\xbb\xbf", b" \n"):
        (empty,) = find_inputs(["-"], io.BytesIO(content))
        assert "standard input is empty" in empty.error
    *_, last = find_inputs(["-"], io.BytesIO(b"a.jpg\n" + b"x" * 2**20))
    assert "read no further" in last.error


def test_an_empty_name_is_refused_and_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(".jpg"))
    monkeypatch.chdir(tmp_path)
    assert names("a.jpg") == ["a.jpg"]
    (refused,) = names("")
    assert refused.startswith("''") and "unset" in refused


def test_hidden_names_are_passed_over_unless_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "._a.jpg", ".thumbnails/b.jpg", ".trash/deep/c.jpg", "d/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(".jpg"))
    assert names(tmp_path) == [f"{tmp_path}/a.jpg", f"{tmp_path}/d/e.jpg"]
    assert names(tmp_path / ".thumbnails") == [f"{tmp_path}/.thumbnails/b.jpg"]
    assert names(tmp_path / "._a.jpg") == [f"{tmp_path}/._a.jpg"]


def test_kinds_that_are_not_opened_are_named_with_the_way_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.JP2", "c.jp2", "deep/d.jxl", "e.psd", "notes.txt", ".hidden.jxl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    image, told = names(tmp_path)
    assert image.endswith("a.jpg")
    assert told.startswith(f"{tmp_path}: passed over 4 images of kinds that are not opened (2 .jp2, 1 .jxl, 1 .psd)")
    assert ".jp2 .psd with `magick`" in told and "`djxl`" in told
    (tmp_path / "a.jpg").unlink()
    assert names(tmp_path) == [told]


@pytest.mark.skipif(os.name == "nt", reason="links want rights on Windows")
def test_links_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for folder in (photos / "deep", elsewhere):
        folder.mkdir(parents=True)
        (folder / "a.jpg").write_bytes(encoded(".jpg"))
    (photos / "up").symlink_to(photos)
    (photos / "deep" / "up").symlink_to(photos / "deep")
    (photos / "linked").symlink_to(elsewhere)
    (photos / "again").symlink_to(elsewhere)
    (photos / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    (elsewhere / "back").symlink_to(photos)
    assert [name.replace(str(photos), "") for name in names(photos)] == ["/again/a.jpg", "/deep/a.jpg", "/gone.jpg"]
    (photos / "circle.jpg").symlink_to(photos / "circle.jpg")
    (photos / "circle.txt").symlink_to(photos / "circle.txt")
    assert [Path(name).name for name in names(photos)] == ["a.jpg", "circle.jpg", "a.jpg", "gone.jpg"]
    (told,) = names(photos / "circle.jpg")
    assert "links lead in a circle" in told


def test_a_pattern_means_what_the_shell_would_make_of_it(tmp_path: Path) -> None:
    for name in ("a.jpg", "deep/b.jpg", "deep/deeper/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(".jpg"))
    every = [f"{tmp_path}/{name}" for name in ("a.jpg", "deep/b.jpg", "deep/deeper/c.jpg")]
    assert names(tmp_path / "*") == every
    assert names(tmp_path / "**") == every
    (missing,) = names(tmp_path / "*.png")
    assert "no file matches this pattern" in missing


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read_and_never_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (nobody,) = names(pipe)
    assert "holds nothing" in nobody
    read, write = os.pipe()  # as a shell makes of <(command)
    os.write(write, encoded(".jpg"))
    monkeypatch.setattr(paths, "_SILENCE", 0.1)
    (silent,) = names(f"/dev/fd/{read}")
    assert "silent" in silent
    os.write(write, encoded(".jpg"))
    os.close(write)
    (image,) = find_inputs([f"/dev/fd/{read}"])
    assert image.source == encoded(".jpg")
    os.close(read)


def test_long_names_are_shown_short(tmp_path: Path) -> None:
    (told,) = names("a.jpg b.jpg " * 1000)
    assert "cannot be read (" in told and "given as one" in told
    assert len(told) < 300
    (told,) = [given.error for given in find_inputs(["-"], io.BytesIO(b"x" * 5000 + b".jpg\n"))]
    assert len(told) < 300


def test_images_that_need_an_extra_are_found_with_it_and_named_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.HEIC", "deep/c.heic", "e.CR2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.setitem(sys.modules, "rawpy", None)
    image, heif, raw = names(tmp_path)
    assert image.endswith("a.jpg")
    way_out = "`pip install 'captionkit[heif]'` opens them"
    assert heif == f"{tmp_path}: 2 images need the extra heif (b.HEIC, deep/c.heic); {way_out}"
    assert "1 image needs the extra raw (e.CR2)" in raw and "captionkit[raw]" in raw
    monkeypatch.undo()
    pytest.importorskip("pi_heif")
    pytest.importorskip("rawpy")
    assert len(names(tmp_path)) == 4 and not any("pip install" in name for name in names(tmp_path))
