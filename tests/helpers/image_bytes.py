"""Small image files made by hand, for tests that damage them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

#: four plain quarters, 64 x 48: what lossy formats keep and what shows every turn
QUARTERS = np.array([[[230, 20, 40], [30, 200, 60]], [[40, 50, 210], [240, 220, 30]]], np.uint8)
QUARTERS = QUARTERS.repeat(24, 0).repeat(32, 1)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def waves(height: int, width: int) -> np.ndarray:
    """Something like a photograph: smooth, and nowhere plain."""
    y, x = np.mgrid[0:height, 0:width]
    parts = [np.sin(x / width * a + y / height * b) for a, b in ((9, 4), (5, 11), (14, 2))]
    return np.rint(127.5 + 120 * np.stack(parts, -1)).astype(np.uint8)


def exif(orientation: int) -> Image.Exif:
    metadata = Image.Exif()
    metadata[0x0112] = orientation
    return metadata


def chunk(name: bytes, content: bytes, *, length: int | None = None, crc: int | None = None) -> bytes:
    """A chunk of a PNG; `length` and `crc` are what it says of itself where that is not the truth."""
    size = len(content) if length is None else length
    checksum = zlib.crc32(name + content) if crc is None else crc
    return struct.pack(">I", size) + name + content + struct.pack(">I", checksum)


def with_chunk(png: bytes, added: bytes) -> bytes:
    """A PNG with something behind its header chunk."""
    return png[:33] + added + png[33:]


def segment(marker: int, content: bytes, *, length: int | None = None) -> bytes:
    """A segment of a JPEG; `length` is what it says of itself where that is not the truth."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2 if length is None else length) + content


Tags = dict[int, tuple[int, list[int]]]


def tiff(width: int, height: int, pixels: bytes, tags: Tags, order: str = "<") -> bytes:
    """An uncompressed TIFF of one strip; `tags` are (type, values), and go before those that it needs."""
    codes = {1: "B", 3: "H", 4: "I", 5: "I"}
    whole: Tags = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [8]),
        259: (3, [1]),
        262: (3, [1]),
        277: (3, [1]),
        278: (3, [height]),
        279: (4, [len(pixels)]),
        **tags,
    }
    start = 8 + 2 + 12 * (len(whole) + 1) + 4
    behind, entries = pixels + b"\0" * (len(pixels) % 2), {273: struct.pack(order + "HHII", 273, 4, 1, start)}
    for tag, (kind, values) in whole.items():
        raw = struct.pack(f"{order}{len(values)}{codes[kind]}", *values)
        head = struct.pack(order + "HHI", tag, kind, len(values) // (2 if kind == 5 else 1))
        if len(raw) <= 4:
            entries[tag] = head + raw.ljust(4, b"\0")
        else:
            entries[tag] = head + struct.pack(order + "I", start + len(behind))
            behind += raw + b"\0" * (len(raw) % 2)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + directory + behind


def dng(
    scene: np.ndarray, *, orientation: int = 1, preview: bytes = b"", preview_size: tuple[int, int] = (0, 0)
) -> bytes:
    """A camera's RAW file: `scene` [H,W,3] behind a Bayer filter in 16 bits, and a JPEG of `preview_size` (w, h)."""
    height, width = scene.shape[:2]
    sensor = np.empty((height, width), "<u2")
    for (y, x), channel in {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 2}.items():
        sensor[y::2, x::2] = scene[y::2, x::2, channel].astype(np.uint16) << 8
    raw = sensor.tobytes()
    identity = [1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1]
    main: Tags = {
        50706: (1, [1, 4, 0, 0]),
        50708: (2, list(b"Test camera\0")),
        50721: (10, identity),
        50728: (5, [1, 1, 1, 1, 1, 1]),
        271: (2, list(b"Test\0")),
        272: (2, list(b"Test camera\0")),
        274: (3, [orientation]),
    }
    shown: Tags = {256: (4, [preview_size[0]]), 257: (4, [preview_size[1]]), 258: (3, [8] * 3), 259: (3, [7])}
    shown |= {254: (4, [1]), 262: (3, [6]), 277: (3, [3]), 278: (4, [preview_size[1]]), 279: (4, [len(preview)])}
    bayer: Tags = {254: (4, [0]), 256: (4, [width]), 257: (4, [height]), 258: (3, [16]), 259: (3, [1])}
    bayer |= {262: (3, [32803]), 277: (3, [1]), 278: (4, [height]), 279: (4, [len(raw)])}
    bayer |= {33421: (3, [2, 2]), 33422: (1, [0, 1, 1, 2]), 50714: (3, [0]), 50717: (4, [65280])}
    if not preview:
        return b"II*\0" + struct.pack("<I", 8) + _directory(8, main | bayer, raw)
    length = len(_directory(0, main | shown | {330: (4, [0])}, preview))
    first = _directory(8, main | shown | {330: (4, [8 + length])}, preview)
    return b"II*\0" + struct.pack("<I", 8) + first + _directory(8 + length, bayer, raw)


def _directory(place: int, tags: Tags, strip: bytes) -> bytes:
    """A little-endian TIFF directory at byte `place` with its one strip and its longer values behind it."""
    codes, sizes = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 10: "i"}, {5: 2, 10: 2}
    start = place + 2 + 12 * (len(tags) + 1) + 4
    behind, entries = strip + b"\0" * (len(strip) % 2), {273: struct.pack("<HHII", 273, 4, 1, start)}
    for tag, (kind, values) in tags.items():
        content = struct.pack(f"<{len(values)}{codes[kind]}", *values)
        head = struct.pack("<HHI", tag, kind, len(values) // sizes.get(kind, 1))
        if len(content) <= 4:
            entries[tag] = head + content.ljust(4, b"\0")
        else:
            entries[tag] = head + struct.pack("<I", start + len(behind))
            behind += content + b"\0" * (len(content) % 2)
    return struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4) + behind
