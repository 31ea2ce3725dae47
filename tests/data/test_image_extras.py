"""HEIC and camera RAW files, made here: upright, within the limits, and named with what installs their reader."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionkit.data.images import open_image
from captionkit.errors import ImageError, ImageTooLargeError
from image_bytes import QUARTERS, dng, encoded, exif

Turn = Callable[[np.ndarray], np.ndarray]
TURNED: dict[int, Turn] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
SCENE = QUARTERS.repeat(12, 0).repeat(12, 1)  # [576,768,3]


def quarters(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image).astype(int)
    rows, columns = (np.array([side // 4, side * 3 // 4]) for side in pixels.shape[:2])
    return pixels[np.ix_(rows, columns)]  # [H,W,3] -> [2,2,3]


def heic(pixels: np.ndarray, orientation: int) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif, which writes HEIC")
    pytest.importorskip("pi_heif")
    file = io.BytesIO()
    image = pillow_heif.from_pillow(Image.fromarray(pixels))
    image.info["exif"] = exif(orientation).tobytes()
    image.save(file, quality=95)
    return file.getvalue()


@pytest.mark.parametrize("orientation", TURNED)
def test_a_heic_is_upright_by_its_rotation_and_not_turned_twice(orientation: int) -> None:
    data = heic(QUARTERS, orientation)
    assert data[4:12] == b"ftypheic"
    image = open_image(data)
    assert image.mode == "RGB"
    expected = Image.fromarray(TURNED[orientation](QUARTERS))
    assert image.size == expected.size
    np.testing.assert_allclose(quarters(image), quarters(expected), atol=16)
    np.testing.assert_array_equal(np.asarray(open_image(image)), np.asarray(image))


def test_a_heic_that_is_cut_too_large_or_without_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(QUARTERS, 1)
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_image(data[: len(data) // 2])
    with pytest.raises(ImageTooLargeError, match="64 x 48 is more than 3071 pixels"):
        open_image(data, max_pixels=3071)
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(ImageError, match=r"a HEIC image; `pip install 'captionkit\[heif\]'` opens it"):
        open_image(data)


@pytest.mark.parametrize("start", [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"])
def test_a_damaged_heic_is_one_line(start: bytes, tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    path = tmp_path / "photo.HEIC"
    path.write_bytes(start)
    with pytest.raises(ImageError, match=r"photo.HEIC: cannot be decoded \(.+\); replace it") as caught:
        open_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_raw_files_preview_is_upright(orientation: int) -> None:
    pytest.importorskip("rawpy")
    shown = QUARTERS[:, ::-1].repeat(12, 0).repeat(12, 1)  # the preview differs from the sensor's data
    data = dng(SCENE, orientation=orientation, preview=encoded(shown, "JPEG", quality=95), preview_size=(768, 576))
    image, expected = open_image(data), Image.fromarray(TURNED[orientation](shown))
    assert image.size == expected.size
    np.testing.assert_allclose(quarters(image), quarters(expected), atol=16)


def test_a_preview_that_states_its_orientation_or_is_turned_already_is_not_turned_again() -> None:
    pytest.importorskip("rawpy")
    stated = encoded(SCENE, "JPEG", quality=95, exif=exif(8))
    stated = stated[:2] + stated[20:]  # cameras write Exif first, and no JFIF
    image = open_image(dng(SCENE, orientation=6, preview=stated, preview_size=(768, 576)))
    np.testing.assert_allclose(quarters(image), quarters(Image.fromarray(TURNED[8](SCENE))), atol=16)
    turned = TURNED[6](SCENE)
    image = open_image(
        dng(SCENE, orientation=6, preview=encoded(turned, "JPEG", quality=95), preview_size=turned.shape[1::-1])
    )
    np.testing.assert_allclose(quarters(image), quarters(Image.fromarray(turned)), atol=16)


@pytest.mark.parametrize("preview", [b"", encoded(QUARTERS, "JPEG"), b"\xff\xd8\xffno image"])
def test_without_a_preview_large_enough_the_sensor_data_is_developed_upright(preview: bytes) -> None:
    pytest.importorskip("rawpy")
    image = open_image(dng(SCENE, orientation=6, preview=preview, preview_size=(64, 48) if preview else (0, 0)))
    assert image.size == (288, 384)
    expected = quarters(Image.fromarray(TURNED[6](SCENE)))
    assert (quarters(image).argmax(-1) == expected.argmax(-1)).all()  # colours of a camera that nobody measured


def test_a_raw_file_that_is_cut_too_large_or_without_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rawpy")
    data = dng(SCENE)
    with pytest.raises(ImageTooLargeError, match="768 x 576"):
        open_image(data, max_pixels=10_000)
    with pytest.raises(ImageError, match=r"a camera's RAW file that LibRaw cannot read \(.+\); export it"):
        open_image(b"FUJIFILMCCD-RAW 0201" + bytes(200))
    monkeypatch.setitem(sys.modules, "rawpy", None)
    for start in (
        b"II*\0\x10\0\0\0CR\2\0",
        b"\0\0\0\x18ftypcrx \0\0\0\1",
        b"FUJIFILMCCD-RAW 0201",
        b"IIU\0\x18\0\0\0",
        data,
    ):
        with pytest.raises(ImageError, match=r"a camera's RAW file; `pip install 'captionkit\[raw\]'` opens it"):
            open_image(start)
