"""Images of every kind become the right RGB and the right floats; anything else ends in one line."""

from __future__ import annotations

import colorsys
import io
import json
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFile, features

from captionkit.data import images
from captionkit.data.images import Preprocessing, describe, load_image, open_image, preprocess
from captionkit.errors import ImageError, ImageTooLargeError, ModelError

# Four plain quarters: what lossy formats keep and what shows every turn. Left to right, top to bottom.
COLOURS = np.array([[[230, 20, 40], [30, 200, 60]], [[40, 50, 210], [240, 220, 30]]], np.uint8)
QUARTERS = COLOURS.repeat(24, 0).repeat(32, 1)
HAS_AVIF = "avif" in features.modules and features.check("avif")
needs_avif = pytest.mark.skipif(not HAS_AVIF, reason="this Pillow has no AVIF")


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def pixels(source: images.Source, **options: Any) -> np.ndarray:
    image = open_image(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for what Pillow cannot write; each row starts with its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def exif(orientation: int) -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIII", 0x0112, 3, 1, orientation, 0)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def photo(height: int, width: int) -> np.ndarray:
    """Smooth enough that every good way of shrinking it agrees."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / width * a + y / height * b) for a, b in ((9, 4), (5, 11), (14, 2))]
    return np.rint(127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)


# --- what comes in


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "quarters.png"
    path.write_bytes(encoded(QUARTERS, "PNG"))
    for source in (path, str(path), path.read_bytes(), Image.open(path), QUARTERS, QUARTERS[::-1][::-1]):
        np.testing.assert_array_equal(pixels(source), QUARTERS)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 1, 254, 255]], np.uint8), [0, 1, 254, 255]),
        (np.array([[[0], [77], [200], [255]]], np.uint8), [0, 77, 200, 255]),
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0, 128, 129, 257 * 90, 65535]], np.uint16), [0, 0, 1, 90, 255]),
        (np.array([[0, 257 * 90, 65535]], ">u2"), [0, 90, 255]),
        (np.array([[0, 0.5, 0.25, 1]], np.float32), [0, 128, 64, 255]),
        (np.array([[0, 1.0000001, -1e-7, 1 / 255]], np.float64), [0, 255, 0, 1]),
        (np.array([[0, 1]], np.float16), [0, 255]),
    ],
)
def test_array_values(array: np.ndarray, expected: list[int]) -> None:
    result = pixels(array)
    assert result.shape == (1, len(expected), 3)
    for channel in range(3):
        assert result[0, :, channel].tolist() == expected


def test_array_with_alpha_is_laid_on_white() -> None:
    array = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 128]]], np.uint8)
    expected = [[10, 20, 30], [255, 255, 255], [127, 177, 227]]
    np.testing.assert_allclose(pixels(array)[0], expected, atol=1)
    np.testing.assert_allclose(pixels(array.astype(np.uint16) * 257)[0], expected, atol=1)
    np.testing.assert_allclose(pixels(array / 255)[0], expected, atol=1)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((3, 8, 8), np.uint8), "shape (3, 8, 8)"),
        (np.zeros((8, 8, 2), np.uint8), "shape"),
        (np.zeros((2, 8, 8, 3), np.uint8), "shape"),
        (np.zeros(8, np.uint8), "shape"),
        (np.zeros((0, 8, 3), np.uint8), "shape"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.zeros((8, 8), complex), "complex"),
        (np.full((8, 8), "a"), "<U1"),
        (np.full((8, 8), 255.0), "0 and 1"),
        (np.full((8, 8), -0.5), "0 and 1"),
        (np.full((8, 8), np.nan), "nan"),
        (None, "NoneType: not a path"),
        (42, "int: not a path"),
        ([1, 2], "list: not a path"),
    ],
)
def test_other_arrays_and_objects_are_refused(source: Any, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_image(source)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


# --- what kinds of file and of pixel there are


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 12),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 12),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("JPEG", {"quality": 95, "progressive": True}, 12),
        ("MPO", {"quality": 95, "save_all": True, "append_images": [Image.new("RGB", (64, 48))]}, 12),
        pytest.param("AVIF", {"quality": 95}, 12, marks=needs_avif),
    ],
)
def test_each_format_keeps_its_colours(kind: str, options: dict[str, Any], tolerance: int) -> None:
    result = pixels(encoded(QUARTERS, kind, **options))
    inner = (
        (slice(4, 20), slice(4, 28)),
        (slice(4, 20), slice(36, 60)),
        (slice(28, 44), slice(4, 28)),
        (slice(28, 44), slice(36, 60)),
    )
    for part in inner if tolerance else ((slice(None), slice(None)),):
        np.testing.assert_allclose(result[part], QUARTERS[part].astype(int), atol=tolerance)


def test_grey_and_one_bit() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(pixels(encoded(grey, kind)), grey[..., None].repeat(3, -1))
    bits = Image.fromarray(grey > 99)
    assert bits.mode == "1"
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(pixels(encoded(bits, kind))[..., 1], np.where(grey > 99, 255, 0))


def test_palette_with_and_without_transparency() -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 1]], np.uint8), "L").convert("P")
    image.putpalette([200, 10, 20, 30, 190, 40, 50, 60, 180])
    plain = [[200, 10, 20], [30, 190, 40], [50, 60, 180], [30, 190, 40]]
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert pixels(encoded(image, kind))[0].tolist() == plain
    hole = [plain[0], [255] * 3, plain[2], [255] * 3]
    assert pixels(encoded(image, "PNG", transparency=1))[0].tolist() == hole
    assert pixels(encoded(image, "GIF", transparency=1))[0].tolist() == hole
    partly = pixels(encoded(image, "PNG", transparency=bytes([255, 0, 128])))[0]
    np.testing.assert_allclose(partly, [*hole[:2], [152, 157, 217], hole[1]], atol=1)


def test_alpha_is_laid_on_white_in_every_format_that_has_it() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[...] = 10, 110, 210, 51  # a fifth opaque
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        np.testing.assert_allclose(pixels(encoded(rgba, kind, **options)), [[[206, 226, 246]] * 8] * 8, atol=1)
    grey_alpha = Image.merge("LA", [Image.new("L", (2, 2), 10), Image.new("L", (2, 2), 51)])
    np.testing.assert_allclose(pixels(encoded(grey_alpha, "PNG")), 206, atol=1)
    np.testing.assert_allclose(pixels(Image.new("RGBa", (2, 2), (2, 22, 42, 51))), [[[206, 226, 246]] * 2] * 2, atol=1)


def test_the_transparent_colour_of_a_png_without_alpha() -> None:
    rgb = png(2, 1, 8, 2, b"\0" + bytes([9, 8, 7, 60, 50, 40]), (b"tRNS", struct.pack(">HHH", 9, 8, 7)))
    assert pixels(rgb)[0].tolist() == [[255, 255, 255], [60, 50, 40]]
    grey = png(2, 1, 8, 0, b"\0" + bytes([9, 60]), (b"tRNS", struct.pack(">H", 9)))
    assert pixels(grey)[0].tolist() == [[255, 255, 255], [60, 60, 60]]


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = [0, 300, 257 * 100, 257 * 200, 65535]
    expected = [0, 1, 100, 200, 255]
    grey = png(5, 1, 16, 0, b"\0" + struct.pack(">5H", *values))
    assert pixels(grey)[0, :, 0].tolist() == expected
    rgb = png(5, 1, 16, 2, b"\0" + struct.pack(">15H", *np.repeat(values, 3)))
    np.testing.assert_allclose(pixels(rgb)[0, :, 2], expected, atol=1)
    array = np.array([values], np.uint16)
    assert pixels(encoded(array, "TIFF"))[0, :, 0].tolist() == expected
    portable = b"P5 5 1 65535\n" + struct.pack(">5H", *values)
    assert pixels(portable)[0, :, 0].tolist() == expected
    assert pixels(Image.fromarray(array.astype(np.int32)))[0, :, 0].tolist() == expected
    with pytest.raises(ImageError, match="16 bits"):
        open_image(Image.new("I", (2, 2), 70000))


def test_a_float_tiff_holds_0_to_1() -> None:
    assert pixels(encoded(np.array([[0, 0.2, 1]], np.float32), "TIFF"))[0, :, 0].tolist() == [0, 51, 255]
    with pytest.raises(ImageError, match="do not lie within 0 and 1"):
        open_image(encoded(np.array([[0, 900.0]], np.float32), "TIFF"))


def naive_rgb(cmyk: tuple[int, ...]) -> list[float]:
    return [(255 - ink) * (255 - cmyk[3]) / 255 for ink in cmyk[:3]]


def test_cmyk_tiff_and_adobes_inverted_cmyk_jpeg() -> None:
    for inks in ((0, 0, 0, 0), (255, 0, 0, 0), (0, 200, 100, 0), (10, 20, 30, 128), (0, 0, 0, 255)):
        image = Image.new("CMYK", (16, 16), inks)
        tiff, jpeg = encoded(image, "TIFF"), encoded(image, "JPEG", quality=100)
        assert b"Adobe" in jpeg
        # libjpeg's own reading of the file, with no plugin to turn it: Adobe stores 255 - ink.
        stored = Image.open(io.BytesIO(jpeg))
        stored.tile = [(*tile[:3], ("CMYK", "")) for tile in stored.tile]
        np.testing.assert_allclose(stored.getpixel((8, 8)), 255 - np.array(inks), atol=2)
        np.testing.assert_allclose(pixels(tiff)[8, 8], naive_rgb(inks), atol=1)
        np.testing.assert_allclose(pixels(jpeg)[8, 8], naive_rgb(inks), atol=4)


def test_ycbcr() -> None:
    red = Image.new("YCbCr", (16, 16), (76, 85, 255))  # 0.299 x 255, and JFIF's Cb and Cr of pure red
    for source in (red, encoded(red, "JPEG", quality=100), encoded(red.convert("RGB"), "TIFF", compression="jpeg")):
        np.testing.assert_allclose(pixels(source)[8, 8], [254, 0, 0], atol=4)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_shows_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    np.testing.assert_array_equal(pixels(data), [[[250, 0, 0]] * 16] * 16)


# --- orientation

TURNED = {  # EXIF's table: where the stored first row and first column belong
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", pytest.param("AVIF", marks=needs_avif)])
def test_the_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    options = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    metadata = Image.Exif()
    metadata[0x0112] = orientation
    data = encoded(QUARTERS, kind, exif=metadata, **options)
    expected = TURNED[orientation](QUARTERS).astype(int)
    for source in (data, Image.open(io.BytesIO(data))):
        result = pixels(source)
        assert result.shape == expected.shape
        for row in (result.shape[0] // 4, result.shape[0] * 3 // 4):
            for column in (result.shape[1] // 4, result.shape[1] * 3 // 4):
                np.testing.assert_allclose(result[row, column], expected[row, column], atol=16)
    again = open_image(open_image(data))  # nothing left to turn twice
    np.testing.assert_array_equal(np.asarray(again), result)


def test_a_damaged_or_unknown_orientation_leaves_the_picture_as_it_is() -> None:
    good = encoded(QUARTERS, "JPEG", quality=95)
    for metadata in (
        exif(9),
        exif(0),
        exif(6)[:-9],
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0nonsense",
        b"Exif\0\0",
    ):
        np.testing.assert_array_equal(pixels(encoded(QUARTERS, "JPEG", quality=95, exif=metadata)), pixels(good))


def test_a_callers_image_is_left_alone() -> None:
    data = encoded(photo(480, 640), "JPEG", exif=exif(6))
    mine = Image.open(io.BytesIO(data))
    assert open_image(mine, target=(32, 32)).size == (480, 640)
    assert mine.size == (640, 480) and mine.getexif()[0x0112] == 6
    assert open_image(plain := Image.new("RGB", (4, 4))) is plain


# --- reduced decoding


@pytest.mark.parametrize(
    ("stored", "target", "orientation", "size"),
    [  # stored and size are (width, height), target is (height, width)
        ((640, 480), (224, 224), 1, (320, 240)),
        ((641, 481), (224, 224), 1, (321, 241)),
        ((640, 480), (240, 320), 1, (320, 240)),
        ((640, 480), (241, 320), 1, (640, 480)),
        ((640, 480), (320, 240), 1, (640, 480)),
        ((640, 480), (320, 240), 6, (240, 320)),
        ((640, 480), (240, 320), 6, (480, 640)),
        ((640, 480), (60, 80), 3, (80, 60)),
        ((640, 480), (1, 1), 1, (80, 60)),
        ((640, 480), (1000, 1000), 1, (640, 480)),
    ],
)
def test_a_jpeg_is_decoded_at_the_scale_the_target_allows(
    stored: tuple[int, int], target: tuple[int, int], orientation: int, size: tuple[int, int]
) -> None:
    data = encoded(photo(stored[1], stored[0]), "JPEG", exif=exif(orientation))
    assert open_image(data, target=target).size == size
    assert pixels(data).shape == ((*stored[::-1], 3) if orientation < 5 else (*stored, 3))


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("stored", [(512, 512), (640, 200), (150, 900)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_no_box_is_ever_enlarged_from_a_reduced_jpeg(
    fit: Any, stored: tuple[int, int], orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    original = images.preprocess
    monkeypatch.setattr(
        images, "preprocess", lambda image, *a, **k: seen.append(image.size) or original(image, *a, **k)
    )
    data = encoded(photo(stored[1], stored[0]), "JPEG", exif=exif(orientation))
    whole = open_image(data).size
    rng = random.Random(0)
    for height, width in ((32, 32), (20, 48), (64, 24)):
        settings = Preprocessing(height=height, width=width, fit=fit)
        for _ in range(12):
            left, top = rng.uniform(0, 0.7), rng.uniform(0, 0.7)
            box = (left, top, rng.uniform(left + 0.05, 1), rng.uniform(top + 0.05, 1))
            load_image(data, settings, box=box)
            # source pixels for an output pixel; the part is fitted as an image of its own
            cut = (seen[-1][0] * (box[2] - box[0]), seen[-1][1] * (box[3] - box[1]))
            region = settings.region(*cut)
            across, down = (region[2] - region[0]) / width, (region[3] - region[1]) / height
            assert seen[-1] == whole or min(across, down) >= 1 - 1e-9
        load_image(data, settings)
    assert len(set(seen)) > 1  # something was reduced


def test_reduced_decoding_changes_little() -> None:
    data = encoded(photo(480, 640), "JPEG", quality=95)
    settings = Preprocessing()
    full = preprocess(open_image(data), settings)
    fast = load_image(data, settings)
    assert 0 < np.abs(fast - full).max() < 4 / 127.5


# --- preprocessing


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_values_are_the_resized_ones_normalised(interpolation: Any) -> None:
    image = Image.fromarray(noise(60, 90))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    settings = Preprocessing(32, 48, "squash", interpolation, mean, std)
    result = preprocess(image, settings)
    resized = np.asarray(image.resize((48, 32), Image.Resampling[interpolation.upper()])).astype(np.float64)
    expected = ((resized / 255 - mean) / std).transpose(2, 0, 1)
    assert result.shape == (3, 32, 48) and result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_black_and_white_are_the_ends_of_the_range() -> None:
    for value, end in ((0, -1), (255, 1)):
        np.testing.assert_allclose(preprocess(Image.new("RGB", (5, 9), (value,) * 3), Preprocessing()), end, atol=1e-6)


def ramp(height: int, width: int) -> Image.Image:
    """Red is four times the column, green four times the row."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([4 * x, 4 * y, 0 * x], -1).astype(np.uint8))


def places(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a ramp shown by `array`: the column and row, in source pixels, that each output pixel's middle shows."""
    levels = (array * 0.5 + 0.5) * 255
    return levels[0] / 4 + 0.5, levels[1] / 4 + 0.5


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("box", [None, (0.13, 0.3, 0.71, 0.9), (0.45, 0.4, 0.6, 0.55)])
def test_each_output_pixel_shows_its_place(fit: Any, box: images.Box | None, flip: bool) -> None:
    image = ramp(40, 60)
    settings = Preprocessing(24, 24, fit, "bilinear")
    result = preprocess(image, settings, box=box, flip=flip)
    l, t, r, b = np.multiply(box or (0, 0, 1, 1), (60, 40, 60, 40))  # noqa: E741
    width, height = r - l, b - t
    if fit == "crop":  # the part that is cut out is fitted: its middle square, or a square around it
        width = height = min(width, height)
    elif fit == "pad":
        width = height = max(width, height)
    middles = (np.arange(24) + 0.5) / 24 - 0.5
    x = (l + r) / 2 + width * (middles[::-1] if flip else middles)
    y = (t + b) / 2 + height * middles
    shown_x, shown_y = places(result)
    slack = 0.2 if fit != "pad" else 0.2 + height / 24 / 2  # padding ends on a whole pixel
    # the edge's filter has no outer half, and beyond the part that is cut out is padding
    inner_x = (x > max(3, l + slack)) & (x < min(57, r - slack))
    inner_y = (y > max(3, t + slack)) & (y < min(37, b - slack))
    assert inner_x.any() and inner_y.any()
    np.testing.assert_allclose(
        shown_x[inner_y][:, inner_x], np.broadcast_to(x[inner_x], (inner_y.sum(), inner_x.sum())), atol=slack
    )
    np.testing.assert_allclose(
        shown_y[inner_y][:, inner_x], np.broadcast_to(y[inner_y][:, None], (inner_y.sum(), inner_x.sum())), atol=slack
    )


def test_regions() -> None:
    assert Preprocessing(fit="squash").region(640, 480) == (0, 0, 640, 480)
    assert Preprocessing(fit="crop").region(640, 480) == (80, 0, 560, 480)
    assert Preprocessing(fit="pad").region(640, 480) == (0, -80, 640, 560)
    assert Preprocessing(100, 200, fit="crop").region(300, 300) == (0, 75, 300, 225)
    assert Preprocessing(100, 200, fit="pad").region(300, 300) == (-150, 0, 450, 300)


def test_crop_is_pillows_crop_and_resize() -> None:
    image = Image.fromarray(noise(48, 64))
    result = preprocess(image, Preprocessing(24, 24, "crop"))
    expected = preprocess(image.crop((8, 0, 56, 48)), Preprocessing(24, 24, "squash"))
    inner = (slice(None), slice(2, -2), slice(2, -2))  # cutting first hides from the filter what is beyond the cut
    np.testing.assert_allclose(result[inner], expected[inner], atol=1e-6)


def test_padding_is_the_mean_colour() -> None:
    settings = Preprocessing(40, 40, "pad", mean=(0.2, 0.4, 0.6))
    result = preprocess(Image.new("RGB", (80, 40), (255, 255, 255)), settings)
    assert (result[:, :10] == 0).all() and (result[:, 30:] == 0).all()
    np.testing.assert_allclose(result[:, 10:30].mean((1, 2)), [1.6, 1.2, 0.8], atol=1e-5)
    uneven = preprocess(Image.new("RGB", (100, 29), (255, 255, 255)), settings)  # 14.2 to 25.8 rows down
    assert np.flatnonzero(np.abs(uneven).sum((0, 2))).tolist() == list(range(14, 26))
    sliver = preprocess(Image.new("RGB", (9000, 2), (255, 255, 255)), settings)
    assert (np.abs(sliver).sum((0, 2)) > 0).sum() == 1  # too thin for a row, and still there
    wide = preprocess(Image.new("RGB", (400, 100), (255, 255, 255)), settings, box=(0.1, 0.2, 0.6, 0.7))
    assert (np.abs(wide).sum((0, 2)) > 0).sum() == 10  # 200 x 50 pixels: a part keeps its shape, whatever is around it


@pytest.mark.parametrize("mean", [(0.5, 0.5, 0.5), (0.485, 0.456, 0.406)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_bytes_are_what_is_normalised(fit: Any, mean: tuple[float, float, float]) -> None:
    options = images.Preprocessing(30, 50, fit, mean=mean, std=(0.2, 0.3, 0.4))
    source = encoded(photo(90, 70), "PNG")
    floats, found = images.load_image(source, options), images.preprocess_bytes(images.open_image(source), options)
    assert found.shape == (30, 50, 4) and found.dtype == np.uint8 and found.flags.c_contiguous
    assert np.array_equal(images.to_bytes(floats[None], options)[0, ..., :3], found[..., :3])
    with pytest.raises(ImageTooLargeError):
        images.load_image(source, options, max_pixels=100)


def test_flip_mirrors_what_the_box_shows() -> None:
    box = (0.1, 0.2, 0.6, 0.9)
    for shape in ((50, 70), (70, 30)):  # the tall one is padded on its left alone
        image = Image.fromarray(noise(*shape))
        for fit in ("squash", "crop", "pad"):
            settings = Preprocessing(16, 20, fit)  # type: ignore[arg-type]
            straight, mirrored = (preprocess(image, settings, box=box, flip=flip) for flip in (False, True))
            np.testing.assert_array_equal(mirrored, straight[:, :, ::-1])
            assert mirrored.flags.c_contiguous


def test_no_part_of_a_picture_is_shown_as_nothing_but_padding() -> None:
    banner = Image.new("RGB", (600, 60), (255, 255, 255))
    for box in ((0, 0, 1, 0.3), (0, 0, 0.3, 1), (0.2, 0.6, 0.5, 0.8)):
        seen = preprocess(banner, Preprocessing(24, 24, "pad"), box=box)
        wide, high = 600 * (box[2] - box[0]), 60 * (box[3] - box[1])
        share = min(wide, high) / max(wide, high)
        assert (seen == 1).mean() == pytest.approx(share, abs=1 / 24)


def test_a_cropped_picture_may_show_what_the_middle_leaves_out() -> None:
    image = Image.new("RGB", (90, 30), (0, 0, 0))
    image.paste((255, 255, 255), (66, 0, 90, 30))
    assert (preprocess(image, Preprocessing(16, 16, "crop")) == -1).all()
    assert (preprocess(image, Preprocessing(16, 16, "crop"), box=(0.76, 0.1, 1, 1)) == 1).all()


def test_colours_change_as_pillow_changes_them() -> None:
    image = Image.fromarray(noise(24, 24) // 2 + np.uint8(64))  # in which nothing meets black or white
    settings = Preprocessing(24, 24)
    for colour in (images.Colour(1.1, 0.8, 1.2), images.Colour(0.9, 1.2, 0.7), images.Colour(1.2, 1.1, 0.0)):
        expected = image
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhance, factor in zip(enhancers, colour, strict=True):
            expected = enhance(expected).enhance(factor)
        changed = preprocess(image, settings, colour=colour)
        away = np.abs(changed - preprocess(expected, settings)) * 127.5
        assert away.max() <= 3.001 and away.mean() < 1.5  # which drops fractions three times, and its mean grey's too
    np.testing.assert_array_equal(preprocess(image, settings, colour=images.Colour()), preprocess(image, settings))


def test_colours_keep_their_hue_and_padding_its_own() -> None:
    names = {"red": (200, 40, 40), "orange": (210, 130, 30), "green": (40, 150, 60), "violet": (120, 50, 160)}
    image = Image.new("RGB", (40, 20))
    for place, colour in enumerate(names.values()):
        image.paste(colour, (10 * place, 0, 10 * place + 10, 20))
    settings = Preprocessing(40, 40, "pad")
    for change in (images.Colour(0.8, 1.1, 0.8), images.Colour(1.1, 0.8, 1.1), images.Colour(0.8, 0.8, 0.8)):
        changed = preprocess(image, settings, colour=change)
        assert (changed[:, :10] == 0).all() and (changed[:, 30:] == 0).all()
        shown = (changed * 0.5 + 0.5).transpose(1, 2, 0)
        assert np.abs(shown - (preprocess(image, settings) * 0.5 + 0.5).transpose(1, 2, 0)).max() > 0.05
        for place, colour in enumerate(names.values()):
            hue = colorsys.rgb_to_hsv(*np.divide(colour, 255))[0]
            assert colorsys.rgb_to_hsv(*shown[20, 10 * place + 5].tolist())[0] == pytest.approx(hue, abs=0.01)


def test_a_grey_picture_stays_grey() -> None:
    grey = Image.fromarray(noise(20, 20)[:, :, 0]).convert("RGB")
    changed = preprocess(grey, Preprocessing(20, 20), colour=images.Colour(1.2, 1.2, 1.9))
    np.testing.assert_allclose(changed[0], changed[1], atol=1e-6)
    np.testing.assert_allclose(changed[0], changed[2], atol=1e-6)


def test_the_whole_box_is_no_box() -> None:
    data = encoded(photo(90, 120), "JPEG")
    np.testing.assert_array_equal(
        load_image(data, Preprocessing(), box=(0, 0, 1, 1)), load_image(data, Preprocessing())
    )


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 1), (0.5, 0, 0.4, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.1), (0, 0, float("nan"), 1)]
)
def test_a_box_outside_is_refused(box: images.Box) -> None:
    with pytest.raises(ValueError, match="box"):
        load_image(QUARTERS, Preprocessing(), box=box)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_extreme_shapes(size: tuple[int, int], fit: Any) -> None:
    result = preprocess(Image.new("RGB", size, (255, 255, 255)), Preprocessing(fit=fit))
    assert result.max() == pytest.approx(1) and np.isfinite(result).all()


def test_shrinking_in_two_steps_changes_little() -> None:
    for array, levels in ((photo(1500, 2000), 1), (noise(1500, 2000), 3)):
        image = Image.fromarray(array)
        exact = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        result = np.rint((preprocess(image, Preprocessing(64, 64)) * 0.5 + 0.5) * 255)
        assert 0 < np.abs(result - exact).max() <= levels


# --- the settings


def test_settings_survive_json() -> None:
    settings = Preprocessing(192, 256, "pad", "lanczos", (0.1, 0.2, 0.3), (1, 0.5, 0.25))
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert Preprocessing.from_dict({}) == Preprocessing()
    assert hash(Preprocessing.from_dict(Preprocessing().to_dict())) == hash(Preprocessing())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"heigth": 224}, "heigth"),
        ({"height": 0}, "height"),
        ({"width": 10**9}, "width"),
        ({"width": 224.0}, "width"),
        ({"height": True}, "height"),
        ({"height": "224"}, "height"),
        ({"fit": "stretch"}, "fit"),
        ({"fit": ["pad"]}, "fit"),
        ({"interpolation": None}, "interpolation"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"mean": 0.5}, "mean"),
        ({"mean": [0.5, 0.5, "0.5"]}, "mean"),
        ({"mean": [127, 127, 127]}, "mean"),
        ({"std": [0.5, 0, 0.5]}, "std"),
        ({"std": [0.5, float("nan"), 0.5]}, "std"),
        ({"std": [0.5, 10**400, 0.5]}, "std"),
        ([], "table"),
        ("pad", "table"),
    ],
)
def test_bad_settings_are_named(values: Any, named: str) -> None:
    with pytest.raises(ModelError, match=named) as caught:
        Preprocessing.from_dict(values)
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


# --- files that are no images, damaged ones, and bombs


def refused(source: images.Source, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(source, **options)
    message = str(caught.value)
    assert message.startswith(describe(source) + ": ") and message.isprintable() and len(message) < 600
    return message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "missing.jpg")
    assert "folder" in refused(tmp_path)
    (tmp_path / "empty.jpg").touch()
    assert "empty" in refused(tmp_path / "empty.jpg")
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    assert "JPEG, PNG" in refused(tmp_path / "page.jpg")
    assert "cannot be read" in refused("a\0b.jpg")
    assert "File name too long" in refused("x" * 400)
    assert "cannot be read" in refused(tmp_path / "empty.jpg" / "inside.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert "cannot be read" in refused(tmp_path / "loop.jpg")
    assert "empty" in refused(b"")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a file" in refused(tmp_path / "pipe.jpg")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(QUARTERS, "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything

        def denied(self: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "read_bytes", denied)
    assert refused(path).endswith("secret.png: cannot be read (Permission denied); check the path and its permissions")


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"%PDF-1.7\n",
        b"8BPS\0\1" + bytes(40),
        b"\0\0\1\0\1\0" + bytes(40),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(QUARTERS, "TGA"),
        encoded(QUARTERS, "PCX"),
        encoded(QUARTERS, "SGI"),
    ],
)
def test_other_formats_never_reach_pillow(data: bytes) -> None:
    assert "kind that is opened" in refused(data)


def test_names_are_printable(tmp_path: Path) -> None:
    assert describe(Path("a/b.jpg")) == os.path.join("a", "b.jpg") and describe("ü 日.png") == "ü 日.png"  # noqa: PTH118
    assert (
        describe(b"...") == "bytes" and describe(np.zeros(1)) == "array" and describe(Image.new("L", (1, 1))) == "image"
    )
    for odd in ("two\nlines.jpg", "\x1b[31m.jpg", "caf\udce9.jpg", ""):
        assert describe(odd).isprintable() and describe(odd)
        refused(odd)
    path = tmp_path / "mine.gif"
    path.write_bytes(encoded(QUARTERS, "GIF")[:60])
    with Image.open(path) as lazy:
        assert "mine.gif" in refused(lazy)


def saved_kinds() -> dict[str, bytes]:
    image, grey = photo(40, 56), photo(40, 56)[..., 0]
    kinds = {
        "jpeg": encoded(image, "JPEG", quality=90, exif=exif(6)),
        "progressive": encoded(image, "JPEG", progressive=True),
        "cmyk": encoded(Image.fromarray(image).convert("CMYK"), "JPEG"),
        "png": encoded(image, "PNG"),
        "interlaced palette": encoded(Image.fromarray(image).quantize(32), "PNG", transparency=3),
        "png16": encoded(grey.astype(np.uint16) * 257, "PNG"),
        "gif": encoded(image, "GIF"),
        "webp": encoded(image, "WEBP"),
        "lossless webp": encoded(image, "WEBP", lossless=True),
        "bmp": encoded(image, "BMP"),
        "tiff": encoded(image, "TIFF"),
        "lzw tiff": encoded(image, "TIFF", compression="tiff_lzw"),
        "ppm": encoded(image, "PPM"),
        "pgm": encoded(grey, "PPM"),
    }
    if HAS_AVIF:
        kinds["avif"] = encoded(image, "AVIF")
    return kinds


def attempt(data: bytes) -> np.ndarray | None:
    """What `data` shows, or None where it is refused as it should be."""
    try:
        return pixels(data, max_pixels=10**6)
    except ImageError as error:
        message = str(error)
    assert message.startswith("bytes: ") and message.isprintable()
    return None


@pytest.mark.parametrize(("kind", "data"), saved_kinds().items(), ids=saved_kinds())
def test_a_truncated_file_is_refused_or_complete(kind: str, data: bytes) -> None:
    whole, rng = pixels(data), random.Random(kind)
    cuts = {*range(1, 24), *(rng.randrange(1, len(data)) for _ in range(40)), len(data) - 2, len(data) - 1}
    results = [attempt(data[:cut]) for cut in cuts]
    for result in results:
        if result is not None:  # nothing was lost but bytes behind the pixels
            np.testing.assert_array_equal(result, whole)
    assert sum(result is None for result in results) >= len(cuts) - 5


@pytest.mark.parametrize(("kind", "data"), saved_kinds().items(), ids=saved_kinds())
def test_a_corrupted_file_ends_in_a_picture_or_an_error(kind: str, data: bytes) -> None:
    rng = random.Random(kind)
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 3, 20))):
            damaged[rng.randrange(rng.choice((64, len(data))))] = rng.randrange(256)
        attempt(bytes(damaged))


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    bomb = png(50_000, 50_000, 8, 2, b"")
    assert refused(bomb) == f"bytes: 50000 x 50000 is more than {images.MAX_PIXELS} pixels; shrink it first"
    assert "more than" in refused(
        b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b"," + bytes(4) + b"\1\0\1\0\0\2"
    )
    assert "more than" in refused(b"P6 60000 60000 255\n")
    small = encoded(QUARTERS, "BMP")
    assert "64 x 48 is more than 3071 pixels" in refused(small, max_pixels=64 * 48 - 1)
    with pytest.raises(ImageError, match="decoded"):
        open_image(small, max_pixels=64 * 48)


def test_arrays_and_pillow_images_are_bounded_too() -> None:
    for source in (QUARTERS, Image.fromarray(QUARTERS)):
        assert "more than 100 pixels" in refused(source, max_pixels=100)


def test_the_size_of_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # sparse
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    assert "bytes are more than" in refused(path)
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    assert "bytes are more than 100" in refused(encoded(QUARTERS, "BMP"))


def large_tiff() -> bytes:
    """A one-bit TIFF whose header says 10,000 x 10,000, of which Pillow would warn while it decodes."""
    data = bytearray(encoded(Image.new("1", (9, 9)), "TIFF"))
    for tag in (256, 257, 278):  # width, height, rows in a strip
        data = data.replace(struct.pack("<HHII", tag, 4, 1, 9), struct.pack("<HHII", tag, 4, 1, 10_000))
        data = data.replace(struct.pack("<HHIHH", tag, 3, 1, 9, 0), struct.pack("<HHIHH", tag, 3, 1, 10_000, 0))
    assert Image.open(io.BytesIO(data)).size == (10_000, 10_000)
    return bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_nothing_is_printed_and_pillow_keeps_its_settings(tmp_path: Path) -> None:
    files = {
        "large.png": png(12_000, 12_000, 8, 2, b""),  # Pillow itself would open it with a warning
        "bomb.png": png(50_000, 50_000, 8, 2, b""),
        "exif.jpg": encoded(QUARTERS, "JPEG", exif=exif(6)[:12] + struct.pack("<HHHII", 1, 0x010F, 2, 999, 9999)),
        "frames.png": png(2, 1, 8, 0, b"\0\1\2", (b"acTL", bytes(8))),
        "cut.tif": encoded(QUARTERS, "TIFF")[:-6],
        "large.tif": large_tiff(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    program = """if True:
        import sys
        from PIL import Image, ImageFile
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        from captionkit.errors import ImageError
        from captionkit.data.images import open_image
        for name in sys.argv[1:]:
            try:
                print(open_image(name).size)
            except ImageError as error:
                print(type(error).__name__)
        assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    """
    for options in ((), ("-W", "error"), ("-W", "always")):
        command = [sys.executable, *options, "-c", program, *(str(tmp_path / name) for name in files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stderr == "" and done.returncode == 0
        assert done.stdout.split("\n") == [
            "ImageTooLargeError",
            "ImageTooLargeError",
            "(64, 48)",
            "(2, 1)",
            "ImageError",
            "ImageTooLargeError",
            "",
        ]


def test_metadata_is_ignored_even_where_warnings_are_errors() -> None:
    damaged = encoded(QUARTERS, "JPEG", exif=exif(6)[:-9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(damaged).size == (64, 48)


def test_many_threads_agree_with_one() -> None:
    sources = [data for data in saved_kinds().values() for _ in range(4)]
    settings = Preprocessing(20, 20)
    alone = [load_image(source, settings) for source in sources]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda source: load_image(source, settings), sources))
    np.testing.assert_array_equal(together, alone)


def test_only_the_plugins_that_are_needed_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(QUARTERS, "JPEG"))
    program = (
        "import sys, captionkit.data.images as images\n"
        "loaded = lambda: sorted(n for n in sys.modules if n.endswith('ImagePlugin'))\n"
        "print(loaded()); images.open_image(sys.argv[1]); print(loaded())"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    before, after = done.stdout.splitlines()
    assert before == "[]" and "JpegImagePlugin" in after and "GifImagePlugin" not in after and "Eps" not in after


def test_real_photographs(shared: Path) -> None:
    paths = sorted((shared / "data" / "flickr8k" / "images").glob("*.jpg"))[:8]
    assert paths
    for path in paths:
        result = load_image(path, replace(Preprocessing(), fit="crop"))
        assert -1 <= result.min() < result.max() <= 1 and result.std() > 0.1
