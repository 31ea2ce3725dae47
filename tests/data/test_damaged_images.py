"""Files whose pixels are whole are opened, whatever is damaged beside them; of others it is said what they are."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captionkit
from captionkit.cli import main as cli
from captionkit.data.images import describe, open_image
from captionkit.errors import ImageError, ImageTooLargeError
from image_bytes import QUARTERS, chunk, encoded, exif, segment, tiff, waves, with_chunk

PNG = encoded(QUARTERS, "PNG")
JPEG = encoded(waves(40, 56), "JPEG", quality=90)


def pixels(source: Any, **options: Any) -> np.ndarray:
    return np.asarray(open_image(source, **options)).astype(int)


def refusal(source: Any) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(source)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
    return str(caught.value)


# --- PNG

GARBAGE = random.Random(0).randbytes(40)
ANCILLARY = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"pHYs", b"tIME", b"gAMA", b"cHRM", b"sRGB")
ANCILLARY = (*ANCILLARY, b"tRNS", b"bKGD", b"sBIT", b"acTL", b"fcTL", b"fdAT", b"prVt")
LARGE = random.Random(1).randbytes(3 << 20)


CHUNKS = {
    "large text": chunk(b"tEXt", b"Comment\0" + b"a" * (3 << 20)),
    "much text": b"".join(chunk(b"tEXt", b"Comment\0" + b"a" * (1 << 20)) for _ in range(66)),
    "large packed text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LARGE, 1)),
    "packed bomb": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 23), 1)),
    "international bomb": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(1 << 23), 1)),
    "large profile": chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(LARGE, 1)),
    "length too small": chunk(b"tEXt", b"Comment\0hello", length=4),
    "length too large": chunk(b"tEXt", b"Comment\0hello", length=90),
    "length beyond the file": chunk(b"tEXt", b"Comment\0hello", length=2**31),
    "no length": chunk(b"iCCP", GARBAGE, length=0),
}


@pytest.mark.parametrize("what", CHUNKS)
def test_a_png_is_opened_whatever_is_in_large_chunks_and_in_lengths(what: str) -> None:
    np.testing.assert_array_equal(pixels(with_chunk(PNG, CHUNKS[what])), QUARTERS)


@pytest.mark.parametrize("crc", [None, 0], ids=["right", "wrong"])
@pytest.mark.parametrize("name", ANCILLARY)
def test_a_png_is_opened_whatever_is_in_chunks_that_no_pixel_needs(name: bytes, crc: int | None) -> None:
    for content in (b"", b"\0", GARBAGE):
        np.testing.assert_array_equal(pixels(with_chunk(PNG, chunk(name, content, crc=crc))), QUARTERS)


def test_chunks_between_and_behind_the_pixels_do_not_matter() -> None:
    place = PNG.index(b"IDAT") - 4
    body = PNG[place + 8 : -16]
    first, last = chunk(b"IDAT", body[:20]), chunk(b"IDAT", body[20:])
    for damage in (chunk(b"tEXt", b"a\0b", crc=0), chunk(b"pHYs", b"")):
        for end in (first + damage + last + PNG[-12:], first + last + damage + PNG[-12:], first + last + damage):
            np.testing.assert_array_equal(pixels(PNG[:place] + end), QUARTERS)


def test_what_the_pixels_of_a_png_need_survives_the_mending() -> None:
    damage = chunk(b"pHYs", b"")
    image = Image.fromarray(QUARTERS).quantize(4)
    palette = encoded(image, "PNG", transparency=0)
    expected = pixels(palette)
    assert (expected == 255).all(-1).any()
    np.testing.assert_array_equal(pixels(with_chunk(palette, damage)), expected)
    turned = encoded(QUARTERS, "PNG", exif=exif(6))
    np.testing.assert_array_equal(pixels(with_chunk(turned, damage)), np.rot90(QUARTERS, -1))


def test_damage_to_the_pixels_of_a_png_is_refused() -> None:
    place = PNG.index(b"IDAT") - 4
    for damaged in (
        with_chunk(PNG[: place + 40], chunk(b"pHYs", b"")),
        PNG[:place],
        PNG[: place + 8] + GARBAGE + PNG[place + 48 :],
        with_chunk(PNG[:place] + PNG[-12:], chunk(b"pHYs", b"")),
    ):
        assert "cannot be decoded" in refusal(damaged)


def test_a_bomb_with_a_damaged_chunk_stays_refused() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = PNG[:8] + header + chunk(b"pHYs", b"") + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    with pytest.raises(ImageTooLargeError):
        open_image(bomb)


# --- JPEG


@pytest.mark.parametrize(
    "added",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe"),
        *(segment(marker, b"") for marker in range(0xE0, 0xF0)),
        *(segment(0xE2, b"ICC_PROFILE\0" + end) for end in (b"", b"\1", b"\1\2abc", b"\0\0")),
        segment(0xE2, b"ICC_PROFILE\0\1"),
        *(segment(0xE1, b"Exif\0\0" + end) for end in (b"", b"II*\0\xff\xff\xff\xff", GARBAGE)),
        segment(0xED, b"Photoshop 3.0\x008BIM\4\4\xff\xff\xff\xff\xff"),
        segment(0xE2, b"MPF\0II*\0\xff\xff"),
        segment(0xE1, b"", length=0),
        segment(0xE1, b"", length=1),
        segment(0xFE, GARBAGE),
        b"\xff\xff\xff",
    ],
)
def test_a_jpeg_is_opened_whatever_is_in_its_application_data(added: bytes) -> None:
    np.testing.assert_array_equal(pixels(JPEG[:2] + added + JPEG[2:]), pixels(JPEG))


def test_the_orientation_of_a_jpeg_survives_the_mending() -> None:
    turned = encoded(waves(40, 56), "JPEG", exif=exif(6))
    damaged = turned[:2] + segment(0xE0, b"JFIF\0") + segment(0xE2, b"ICC_PROFILE\0") + turned[2:]
    assert open_image(damaged).size == (40, 56)
    np.testing.assert_array_equal(pixels(damaged), pixels(turned))


ENCODINGS: list[dict[str, Any]] = [
    {"quality": 90},
    {"quality": 30, "subsampling": 0},
    {"progressive": True},
    {"optimize": True},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 3, "progressive": True},
]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", ENCODINGS, ids=str)
def test_a_jpeg_that_lacks_only_its_end_marker_is_opened_with_a_note(mode: str, options: dict[str, Any]) -> None:
    whole = encoded(Image.fromarray(waves(90, 130)).convert(mode), "JPEG", **options)
    for cut in (whole[:-1], whole[:-2], whole[:-2] + bytes(40)):
        notes: list[str] = []
        np.testing.assert_array_equal(pixels(cut, notes=notes), pixels(whole))
        assert len(notes) == 1 and "end marker" in notes[0]
    notes = []
    open_image(whole + b"junk behind it", notes=notes)
    assert not notes


RESTARTS_AND_SCANS = {*range(0xD0, 0xD8), 0xDA}


@pytest.mark.parametrize("options", ENCODINGS, ids=str)
def test_a_jpeg_that_lacks_more_is_refused(options: dict[str, Any]) -> None:
    image, rng = waves(90, 130), random.Random(3)
    whole = encoded(image, "JPEG", **options)
    restarts = [at for at in range(len(whole) - 1) if whole[at] == 0xFF and whole[at + 1] in RESTARTS_AND_SCANS]
    scan = whole.index(b"\xff\xda")
    cuts = [rng.randrange(scan, len(whole) - 12) for _ in range(4)] + restarts[-2:] + [at + 2 for at in restarts[-2:]]
    for cut in cuts:
        for padding in (b"", bytes(5000)):  # as of a download whose room was taken beforehand
            assert "truncated" in refusal(whole[:cut] + padding)


# --- WebP, GIF, TIFF


def test_a_webp_is_opened_whatever_is_damaged_beside_its_pixels() -> None:
    whole = encoded(QUARTERS, "WEBP", lossless=True, icc_profile=b"profile", xmp=b"<x/>", exif=exif(1))
    lies = [whole[:4] + size + whole[8:] for size in (b"\0\0\0\0", b"\x20\0\0\0", b"\xff\xff\xff\0")]
    for name in (b"ICCP", b"EXIF", b"XMP "):
        place = whole.index(name) + 4
        lies += [whole[:place] + size + whole[place + 4 :] for size in (b"\2\0\0\0", b"\xff\xff\xff\x7f")]
    for damaged in (*lies, whole[:-3], whole + b"junk"):
        np.testing.assert_array_equal(pixels(damaged), QUARTERS)
    turned = encoded(QUARTERS, "WEBP", lossless=True, exif=exif(6), xmp=b"<x/>")
    np.testing.assert_array_equal(pixels(turned[:-3]), np.rot90(QUARTERS, -1))


def test_the_first_frame_and_the_alpha_of_a_damaged_webp() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    animation = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(pixels(animation[:-5]), [[[250, 0, 0]] * 16] * 16)
    clear = Image.new("RGBA", (16, 16), (10, 110, 210, 51))
    for options in ({"lossless": True}, {"quality": 100}):
        damaged = encoded(clear, "WEBP", xmp=b"<x/>", **options)[:-3]
        np.testing.assert_allclose(pixels(damaged), [[[206, 226, 246]] * 16] * 16, atol=3)


def test_a_gif_is_opened_whatever_is_in_its_comment() -> None:
    whole = encoded(QUARTERS, "GIF", comment=b"hello there")
    expected, place = pixels(whole), whole.index(b"\x21\xfe") + 2
    for damaged in (
        whole[:place] + b"\x20" + whole[place + 1 :],
        whole[:place] + b"\2" + whole[place + 1 :],
        whole[:-1],
        whole + b"junk",
    ):
        np.testing.assert_array_equal(pixels(damaged), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_is_opened_whatever_is_in_tags_that_no_pixel_needs(order: str) -> None:
    odd = (270, 282, 306, 700, 33432, 34665, 34675)
    whole = tiff(2, 1, b"\x0f\xf0", {tag: (4, [1] * 9) for tag in odd}, order)
    for tag in odd:
        place = whole.index(struct.pack(order + "HHI", tag, 4, 9))
        for kind in (0, 2, 5, 7, 13, 99, 65535):
            for entry in ((kind, 2**32 - 1, 8), (kind, 4, 10**6), (kind, 0, 0)):
                damaged = whole[: place + 2] + struct.pack(order + "HII", *entry) + whole[place + 12 :]
                assert pixels(damaged)[0, :, 0].tolist() == [15, 240]


# --- the brightness of what has more than 8 bits


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_many_bits_has_its_true_brightness(order: str) -> None:
    def shown(values: list[float], code: str, tags: dict[int, tuple[int, list[int]]]) -> list[int]:
        data = tiff(len(values), 1, struct.pack(f"{order}{len(values)}{code}", *values), tags, order)
        return pixels(data)[0, :, 1].tolist()

    bits, signed, floating = {258: (3, [16])}, {339: (3, [2])}, {258: (3, [32]), 339: (3, [3])}
    white_first = {262: (3, [0])}
    assert shown([0, 257, 25_700, 65_535], "H", bits) == [0, 1, 100, 255]
    if order == "<":  # Pillow knows no other
        assert shown([0, 257, 25_700, 65_535], "H", {**bits, **white_first}) == [255, 254, 155, 0]
    assert shown([0, 16_384, 32_767], "h", {**bits, **signed}) == [0, 128, 255]
    assert shown([0, 0.2, 1], "f", floating) == [0, 51, 255]
    assert shown([0, 0.2, 1], "f", {**floating, **white_first}) == [255, 204, 0]


def test_twelve_bits_are_no_sixteen() -> None:
    assert pixels(tiff(4, 1, bytes((0, 0x08, 0, 0xFF, 0xF0, 0)), {258: (3, [12])}))[0, :, 0].tolist() == [
        0,
        128,
        255,
        0,
    ]


def test_numbers_of_which_none_is_known_to_be_black_or_white_are_refused_with_the_truth() -> None:
    signed = struct.pack("<3h", -1000, 0, 3000)
    said = refusal(tiff(3, 1, signed, {258: (3, [16]), 339: (3, [2])}))
    assert "signed 16-bit" in said and "from -1000 to 3000" in said and "more than 16" not in said
    assert "signed 8-bit" in refusal(tiff(3, 1, b"\1\2\3", {339: (3, [2])}))
    assert "32-bit" in refusal(tiff(1, 1, bytes(4), {258: (3, [32])}))


def test_the_transparent_grey_of_a_png_of_16_bits() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">2H", 9, 25_700)))
    data = PNG[:8] + header + chunk(b"tRNS", struct.pack(">H", 9)) + rows + PNG[-12:]
    assert pixels(data)[0].tolist() == [[255] * 3, [100] * 3]


def test_lab_colours() -> None:
    red = tiff(1, 1, bytes((136, 80, 67)), {258: (3, [8] * 3), 262: (3, [8]), 277: (3, [3])})
    np.testing.assert_allclose(pixels(red)[0, 0], [255, 0, 0], atol=12)


def test_a_cameras_raw_file_is_no_small_image() -> None:
    for tags in ({50706: (1, [1, 4, 0, 0])}, {254: (4, [1]), 330: (4, [8, 8])}):
        assert "RAW" in refusal(tiff(2, 1, b"\x0f\xf0", tags))  # type: ignore[arg-type]
    assert pixels(tiff(2, 1, b"\x0f\xf0", {254: (4, [1])}))[0, :, 0].tolist() == [15, 240]


def test_the_first_image_of_an_mpo_is_opened_upright(tmp_path: Path) -> None:
    other = Image.new("RGB", (64, 48))
    path = tmp_path / "phone.MPO"
    path.write_bytes(encoded(QUARTERS, "MPO", save_all=True, append_images=[other], exif=exif(6), quality=95))
    assert Image.open(path).n_frames == 2  # type: ignore[attr-defined]
    upright = np.rot90(QUARTERS, -1).astype(int)
    for source in (path, path.read_bytes(), Image.open(path)):
        result = pixels(source)
        for row in (16, 48):
            for column in (12, 36):
                np.testing.assert_allclose(result[row, column], upright[row, column], atol=16)


# --- what a file is that is no image

LOOKALIKES = {
    "a Git LFS pointer": [b"version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 12345\n"],
    "a git-annex pointer": [b"/annex/objects/SHA256E-s31390--f50d7ac4.jpg\n"],
    "a web page": [
        b"<!DOCTYPE html>\n<html lang='en'>",
        b"\xef\xbb\xbf\r\n<HTML><body>403</body>",
        b"<!-- saved from url --><html>",
        b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0//EN">',
        "<html>".encode("utf-16"),
    ],
    "an SVG drawing": [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b'<?xml version="1.0"?>\n<!-- Inkscape -->\n<!DOCTYPE svg PUBLIC "-" "http://www.w3.org/svg.dtd">\n<svg>',
    ],
    "an XML document": [b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'],
    "a JSON document": [b'{"error": "not found"}', b"[]", b'\n[{"a": 1}]'],
    "a gzip archive": [b"\x1f\x8b\x08\0\0\0\0\0"],
    "a ZIP archive": [b"PK\3\4\x14\0"],
    "a 7z archive": [b"7z\xbc\xaf\x27\x1c\0\4"],
    "a RAR archive": [b"Rar!\x1a\7\1\0"],
    "an xz archive": [b"\xfd7zXZ\0\0"],
    "a tar archive": [b"a.jpg".ljust(257, b"\0") + b"ustar\x0000"],
    "a PDF document": [b"%PDF-1.7\n"],
    "a video": [
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
        b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
        b"\x1a\x45\xdf\xa3\x01",
        b"RIFF\0\0\0\0AVI LIST",
    ],
    "a JPEG XL image": [b"\xff\x0a\xfa\x1f", b"\0\0\0\x0cJXL \r\n\x87\n"],
    "a JPEG 2000 image": [b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51\0"],
    "a Photoshop document": [b"8BPS\0\1"],
    "an image in base64 text": [b"/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcG", b"data:image/png;base64,iVBORw0KGgo="],
    "an image that was copied as text": [
        b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\0\x10JFIF",
        b"\xef\xbf\xbdPNG\r\n\x1a\n",
        b"\x89PNG\n\x1a\n",
    ],
    "nothing but zero bytes": [bytes(5000)],
    "what macOS keeps beside a file": [b"\0\5\x16\7\0\2\0\0"],
    "a text file": [b"just some words\n", "ä".encode() * 4000, b"a" + "é".encode() * 4000, b"MIT License free for all"],
}


WAYS_OUT = {"LFS": "git lfs pull", "annex": "git annex get", "ZIP": "unpack", "web page": "download"}
WAYS_OUT |= {"PDF": "pdftoppm", "video": "ffmpeg", "XL": "djxl"}


@pytest.mark.parametrize(
    ("what", "data"),
    [(what, data) for what, files in LOOKALIKES.items() for data in files],
    ids=[f"{what} {number}" for what, files in LOOKALIKES.items() for number in range(len(files))],
)
def test_it_is_said_what_a_file_is_and_what_to_do(what: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    said = refusal(path)
    assert said.startswith(f"{path}: not an image of a kind that is opened (JPEG, PNG,") and f" but {what}" in said
    for kind, way_out in WAYS_OUT.items():
        assert kind not in what or way_out in said


def test_an_image_of_the_heif_family_with_avifs_brand_is_tried() -> None:
    assert "HEIC" not in refusal(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf")


def test_what_is_not_known_is_said_to_be_none_that_is_opened() -> None:
    said = refusal(random.Random(7).randbytes(3000))
    assert "not an image of a kind that is opened (JPEG, PNG" in said and " but " not in said


# --- sources


class Pipe(io.RawIOBase):
    """A file that cannot be rewound, as standard input or a response."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(buffer)


def test_binary_files_and_buffers(tmp_path: Path) -> None:
    path = tmp_path / "quarters.png"
    path.write_bytes(PNG)
    saved = io.BytesIO()
    Image.fromarray(QUARTERS).save(saved, "PNG")  # and now it stands at its end
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        for source in (saved, saved, file, file, raw, io.BufferedReader(Pipe(PNG)), bytearray(PNG), memoryview(PNG)):
            np.testing.assert_array_equal(pixels(source), QUARTERS)
        assert describe(file) == str(path)
    assert describe(saved) == "BytesIO"
    assert refusal(io.BytesIO()).startswith("BytesIO: empty")
    assert "text, not bytes" in refusal(io.StringIO("text")) and "'rb'" in refusal(io.StringIO("text"))
    assert "closed" in refusal(file)


def test_a_file_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert 0 < size <= 101
            return bytes(size)

    monkeypatch.setattr(captionkit.data.images, "MAX_BYTES", 100)  # type: ignore[attr-defined]
    with pytest.raises(ImageTooLargeError):
        open_image(Endless())  # type: ignore[arg-type]


URL = "https://example.org/a.jpg"


def test_a_url_is_not_fetched_and_how_to_pipe_it_is_said() -> None:
    assert refusal(URL) == f"{URL}: a URL, which is not fetched; pipe it in: curl -sL {URL} | captionkit caption -"
    assert "curl -sL 'HTTP://a.org/x.jpg?w=1&h=2' |" in refusal("HTTP://a.org/x.jpg?w=1&h=2")
    assert "aws s3 cp s3://bucket/a.jpg - |" in refusal("s3://bucket/a.jpg")
    assert "its path" in refusal("file:///tmp/a.jpg")


def test_captions_of_such_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, list[str], list[str]]:
        status = cli.main(["caption", *arguments])
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    cut, good = tmp_path / "cut.jpg", tmp_path / "good.jpg"
    cut.write_bytes(JPEG[:-2])
    good.write_bytes(JPEG)
    assert run(str(good))[::2] == (0, [])
    status, out, err = run(str(cut), "--json")
    assert status == 0 and "end marker" in json.loads(out[0])["note"]
    assert len(err) == 1 and err[0].startswith(f"captionkit: {cut}: lacks its end marker")
    status, out, err = run(str(good), "https://a.org/x.jpg?size=9", str(cut))
    assert status == 1 and [line.partition("\t")[0] for line in out] == [str(good), str(cut)]
    assert any("curl -sL 'https://a.org/x.jpg?size=9' | captionkit caption -" in line for line in err)
    captioner = captionkit.load()
    same, path = captioner.caption([io.BytesIO(JPEG), good])
    assert str(same) == str(path) == str(captioner.caption(io.BytesIO(JPEG)))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no bound on a process's memory here")
def test_memory_stays_small_whatever_stands_in_a_chunk() -> None:
    """Of 120 MB of text and of a chunk that unpacks to 256 MB no more is held than the file some times over."""
    program = """if True:
        import resource, zlib
        from captionkit.data.images import open_image
        from image_bytes import QUARTERS, chunk, encoded, with_chunk
        png = encoded(QUARTERS, "PNG")
        packer = zlib.compressobj(1)
        bomb = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(256)), packer.flush()])
        held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (450 << 20),) * 2)
        text = chunk(b"tEXt", bytes(30 << 20)) * 4
        for damage in (chunk(b"zTXt", b"a\\0\\0" + bomb), chunk(b"iCCP", b"a\\0\\0" + bomb), text):
            assert open_image(with_chunk(png, damage)).size == (64, 48)
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1] / "helpers",
    )
    assert done.returncode == 0, done.stderr
