"""Two thousand mutated image files: each is an image or one line that says why not, in time and in bounded memory."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, features

from captionkit.data.images import open_image
from captionkit.errors import ImageError
from image_bytes import chunk, encoded, exif, segment, tiff, waves, with_chunk
from tiers import slow

CASES = 2000
SECONDS = 5  # for a case
MEMORY = 1 << 30  # bytes beyond what the process holds at its start
MAX_PIXELS = 10**6


def seeds() -> list[bytes]:
    """A small file of every kind that is opened, in its varieties."""
    image, grey = waves(20, 28), waves(20, 28)[..., 0]
    rgb, alpha = Image.fromarray(image), Image.fromarray(waves(20, 28)).convert("RGBA")
    frames = {"save_all": True, "append_images": [rgb.transpose(Image.Transpose.ROTATE_180)]}
    found = [
        encoded(rgb, "JPEG", exif=exif(6), icc_profile=b"profile", comment=b"hello"),
        encoded(rgb, "JPEG", progressive=True),
        encoded(rgb, "JPEG", restart_marker_rows=1),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(rgb, "JPEG")[:-2],
        encoded(rgb, "MPO", **frames),
        with_chunk(encoded(rgb, "PNG", exif=exif(8)), chunk(b"tEXt", b"a\0b") + chunk(b"iCCP", b"a\0\0b")),
        encoded(rgb.quantize(9), "PNG", transparency=2),
        encoded(Image.fromarray(grey.astype("uint16") * 257), "PNG"),
        encoded(alpha.convert("LA"), "PNG"),
        encoded(rgb, "PNG", **frames),
        encoded(rgb, "WEBP", exif=exif(3), xmp=b"<x/>"),
        encoded(alpha, "WEBP", lossless=True, icc_profile=b"profile"),
        encoded(rgb, "WEBP", **frames),
        encoded(rgb, "GIF", comment=b"hello"),
        encoded(rgb, "GIF", **frames),
        encoded(rgb, "TIFF"),
        *(encoded(rgb, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate")),
        encoded(rgb.convert("1"), "TIFF", compression="group4"),
        tiff(4, 2, bytes(16), {258: (3, [16]), 339: (3, [2]), 700: (1, [1] * 9)}, ">"),
        encoded(rgb, "BMP"),
        encoded(rgb.quantize(9), "BMP"),
        encoded(rgb, "PPM"),
        b"P3 2 2 255\n" + b"10 200 30 " * 4,
    ]
    return found + ([encoded(rgb, "AVIF", exif=exif(6))] if features.check("avif") else [])


Mutation = Callable[[bytearray, random.Random, list[bytes]], bytes]


def flips(data: bytearray, rng: random.Random, _: list[bytes]) -> bytes:
    for _each in range(rng.choice((1, 2, 8, 40))):
        data[rng.randrange(rng.choice((min(64, len(data)), len(data))))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(data: bytearray, rng: random.Random, _: list[bytes]) -> bytes:
    return bytes(data[: rng.randrange(len(data))] + bytes(rng.choice((0, 0, 300))))


def removed(data: bytearray, rng: random.Random, _: list[bytes]) -> bytes:
    start = rng.randrange(len(data))
    return bytes(data[:start] + data[start + rng.choice((1, 2, 4, 12, 100)) :])


def inserted(data: bytearray, rng: random.Random, _: list[bytes]) -> bytes:
    content = rng.randbytes(rng.choice((0, 1, 4, 30)))
    name = rng.choice(
        (b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"tRNS", b"IDAT", b"PLTE", b"acTL", b"fcTL", b"IHDR", b"IEND")
    )
    added = rng.choice((
        content,
        bytes(rng.choice((1, 70))),
        chunk(name, content, length=rng.choice((None, 0, 9, 2**31)), crc=rng.choice((None, 0))),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 21), 1)),
        segment(rng.randrange(0xC0, 0xFF), content, length=rng.choice((None, 0, 1, 2, 9, 65535))),
        name + struct.pack("<I", rng.choice((0, 3, 2**31))) + content,
    ))  # fmt: skip
    place = rng.choice((2, 8, 12, 13, 33, rng.randrange(len(data))))
    return bytes(data[:place] + added + data[place:])


def lies(data: bytearray, rng: random.Random, _: list[bytes]) -> bytes:
    """A size, a count or an offset that is not the truth, mostly in the header."""
    code = rng.choice(("<H", ">H", "<I", ">I"))
    size = struct.calcsize(code)
    for _each in range(rng.choice((1, 1, 3))):
        place = rng.randrange(max(1, rng.choice((min(120, len(data)), len(data))) - size))
        value = rng.choice((0, 1, 2, 255, 4095, 65535, 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(2**32)))
        data[place : place + size] = struct.pack(code, value % (1 << 8 * size))
    return bytes(data)


def spliced(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    other = rng.choice(others)
    return bytes(data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :])


MUTATIONS: tuple[Mutation, ...] = (flips, flips, cut, removed, inserted, inserted, lies, lies, spliced)


def mutants(seed: int, number: int) -> list[bytes]:
    rng, files = random.Random(seed), seeds()
    made = []
    for _ in range(number):
        data = rng.choice(files)
        for _each in range(rng.choice((1, 1, 1, 2))):
            data = rng.choice(MUTATIONS)(bytearray(data or b"\0"), rng, files)
        made.append(data)
    return made


class LateError(BaseException):
    """A case took too long; nothing that catches an Exception keeps it."""


def late(*_: Any) -> None:
    raise LateError


def was_opened(data: bytes, target: tuple[int, int] | None) -> bool:
    """Whether `data` are an image; AssertionError where neither an image nor one line comes of them."""
    try:
        image = open_image(data, target=target, max_pixels=MAX_PIXELS)
    except ImageError as error:
        said, cause = str(error), error.__cause__
    else:
        assert image.mode == "RGB" and image.width * image.height <= MAX_PIXELS
        return True
    assert said.startswith("bytes: ") and said.isprintable() and len(said) < 600, said
    assert not isinstance(cause, MemoryError), said
    return False


def main(seed: int, number: int) -> None:
    """Open every mutant and print how many were opened; ends in a traceback at the first that does not end well."""
    import resource

    made = mutants(seed, number)
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    signal.signal(signal.SIGVTALRM, late)
    opened = 0
    for count, data in enumerate(made):
        # Of the process's own time, which no other work on the machine uses up. Python cannot act on the first while C
        # code runs; the second kills.
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
        try:
            opened += was_opened(data, (16, 16) if count % 2 else None)
        except BaseException as error:
            raise AssertionError(f"case {count} of seed {seed}, {len(data)} bytes: {data[:40]!r}...") from error
    print(opened)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no bound on a process's memory here")
@pytest.mark.parametrize("cases", [CASES // 10, *slow(CASES)])
def test_mutated_images_end_in_an_image_or_in_one_line(cases: int) -> None:
    command = [sys.executable, "-X", "faulthandler", __file__, "1", str(cases)]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # where the helpers are
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=place)
    assert done.returncode == 0, done.stderr[-3000:]  # libtiff writes there what it finds odd
    assert cases / 10 < int(done.stdout) < cases * 9 / 10  # neither did the damage do nothing, nor was all refused


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
