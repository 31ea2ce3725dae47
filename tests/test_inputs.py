"""What the command line names, as images: folders, patterns, archives and standard input."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from captionkit.datasets import open_dataset
from captionkit.images import SUFFIXES, open_image
from captionkit.inputs import find_inputs

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


@pytest.mark.parametrize("suffix", SUFFIXES)
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
