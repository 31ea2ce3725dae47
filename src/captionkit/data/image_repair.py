"""Repair of image files whose pixel data is complete but whose metadata is damaged, by dropping the metadata.

Only what the pixels need is kept, and the EXIF block, which holds the orientation, if it is intact. A file with
incomplete pixel data is never made to look complete.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

# --- PNG: https://www.w3.org/TR/png-3/#5Chunk-layout

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_PNG_HEAD = re.compile(rb"(?s)....(?:" + b"|".join(_PNG_KEPT) + b")")
_PNG_CHUNKS = 2**18  # 256 MiB in libpng's usual blocks of 8 KiB have 2**15 chunks
_PNG_LOST = 16  # wrong chunk lengths tolerated in one file


def png(data: bytes) -> bytes | None:
    """Return a PNG with only the chunks that the pixels need; None if they cannot be found."""
    kept: dict[bytes, list[memoryview]] = {name: [] for name in _PNG_KEPT}
    for name, content in _png_chunks(data):
        if name == b"IEND":
            break
        kept[name].append(content)
    header, palette, transparency = (kept[name][:1] for name in (b"IHDR", b"PLTE", b"tRNS"))
    if not header or not kept[b"IDAT"]:
        return None
    if transparency and not _is_transparency(header[0], palette, transparency[0]):
        transparency = []
    parts: list[bytes | memoryview] = [_PNG_START]
    for name, contents in (
        (b"IHDR", header),
        (b"PLTE", palette),
        (b"tRNS", transparency),
        (b"eXIf", kept[b"eXIf"][:1]),
        (b"IDAT", kept[b"IDAT"]),
        (b"IEND", [memoryview(b"")]),
    ):
        if contents:
            length = sum(map(len, contents)).to_bytes(4, "big")
            parts += [length, name, *contents, _png_crc(name, *contents)]
    return b"".join(parts)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the relevant chunks (ancillary ones only if intact).

    After a wrong length, resume at the next relevant chunk.
    """
    whole, place, lost = memoryview(data), len(_PNG_START), 0
    for _ in range(_PNG_CHUNKS):
        if place + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        critical, content = not name[:1].islower(), whole[place + 8 : end - 4]
        # a damaged critical chunk is left to the decoder to report
        if name in _PNG_KEPT and (critical or data[end - 4 : end] == _png_crc(name, content)):
            yield name, content
        if end != len(data) and not re.fullmatch(rb"[a-zA-Z]{4}", data[end + 4 : end + 8]):
            found = _PNG_HEAD.search(data, place + 8)
            lost += 1
            if lost > _PNG_LOST or found is None or (critical and name in _PNG_KEPT):
                return
            end = found.start()
        place = end


def _is_transparency(header: memoryview, palette: Sequence[memoryview], content: memoryview) -> bool:
    kind = bytes(header[9:10])
    if kind == b"\3":
        return bool(palette) and 0 < len(content) <= len(palette[0]) // 3
    return len(content) == {b"\0": 2, b"\2": 6}.get(kind)


def _png_crc(name: bytes, *contents: memoryview) -> bytes:
    checksum = zlib.crc32(name)
    for content in contents:
        checksum = zlib.crc32(content, checksum)
    return checksum.to_bytes(4, "big")


# --- WebP: https://developers.google.com/speed/webp/docs/riff_container

_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_KEPT = (*_WEBP_PIXELS, b"VP8X", b"EXIF")
_WEBP_HEAD = re.compile(b"|".join(_WEBP_KEPT))
_WEBP_FLAGS = {b"EXIF": 0x08, b"ALPH": 0x10, b"ANIM": 0x02}


def webp(data: bytes) -> bytes | None:
    """Return a WebP with only the chunks that the first frame needs; None if they cannot be found."""
    kept: list[tuple[bytes, bytes]] = []
    frames = 0
    for name, content in _webp_chunks(data):
        frames += name in (b"VP8 ", b"VP8L", b"ANMF")
        if frames < 2 or name == b"EXIF":
            kept.append((name, content))
    canvas = next((content for name, content in kept if name == b"VP8X"), b"")
    chunks = [chunk for chunk in kept if chunk[0] != b"VP8X"]
    if not frames:
        return None
    if len(canvas) == 10:
        flags = canvas[0] & 0x10
        for name, _ in chunks:
            flags |= _WEBP_FLAGS.get(name, 0)
        chunks.insert(0, (b"VP8X", bytes([flags]) + canvas[1:]))
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the relevant chunks that are intact; after a wrong length, resume at the next relevant chunk."""
    place = 12
    while place + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, place)
        content, pixels = data[place + 8 : place + 8 + length], name in _WEBP_PIXELS
        end = place + 8 + length + length % 2
        follows = end >= len(data) >= place + 8 + length or re.fullmatch(rb"[\w ]{4}", data[end : end + 4])
        if len(content) == length and name in _WEBP_KEPT and (pixels or follows):
            yield name, content
        elif pixels:
            return
        if not follows:
            found = _WEBP_HEAD.search(data, end if pixels else place + 4)
            if found is None:
                return
            end = found.start()
        place = end


# --- GIF: https://www.w3.org/Graphics/GIF/spec-gif89a.txt

_GIF_FRAME = re.compile(rb"(?s)(?:\x21\xf9\x04.{4}\0)?\x2c(?P<place>.{8})(?P<flags>.)")


def gif(data: bytes) -> bytes | None:
    """Return the header of a GIF and everything from its first frame on; None if no frame is found."""
    if len(data) < 13:
        return None
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    for found in _GIF_FRAME.finditer(data, start):
        left, top, wide, high = struct.unpack("<4H", found["place"])
        local = found["flags"][0]
        lzw = found.end() + (3 << (local & 7) + 1 if local & 0x80 else 0)
        if wide and high and left + wide <= width and top + high <= height and data[lzw : lzw + 1] in _GIF_CODES:
            return data[:start] + data[found.start() :]
    return None


_GIF_CODES = [bytes([size]) for size in range(2, 9)]


# --- TIFF: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf

# Subfile type, size, bits, compression, photometric, fill order, strips, orientation, samples, planes, fax options,
# predictor, palette, tiles, inks, extra samples, sample format, JPEG tables, YCbCr
_TIFF_KEPT = {
    254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338,
    339, 347, 529, 530, 531, 532,
}  # fmt: skip
_TIFF_ENTRIES = 4096


def tiff(data: bytes) -> bytes | None:
    """Return a TIFF whose first directory has only the tags that its pixels need.

    None if the directory is incomplete.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count, entry, offset = (f"{order}{code}" for code in (("Q", "H18s", "Q") if big else ("H", "H10s", "I")))
    try:
        (place,) = struct.unpack_from(offset, data, 8 if big else 4)
        (number,) = struct.unpack_from(count, data, place)
    except struct.error:
        return None
    size = struct.calcsize(entry)
    start = place + struct.calcsize(count)
    end = start + size * number
    if number > _TIFF_ENTRIES or end > len(data):
        return None
    entries = [data[at : at + size] for at in range(start, end, size)]
    kept = [one for one in entries if struct.unpack(entry, one)[0] in _TIFF_KEPT]
    directory = struct.pack(count, len(kept)) + b"".join(kept)
    return data[:place] + directory + bytes(end - place - len(directory)) + data[end:]


# --- JPEG: ITU-T T.81

_EOI = b"\xff\xd9"
_SOS, _DRI = 0xDA, 0xDD
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_APPS = {*range(0xE0, 0xF0), 0xFE}  # including comments
_APP_KEPT = {0xE0: rb"JFIF\0.{9}", 0xE1: rb"Exif\0\0", 0xEE: rb"Adobe.{7}"}
_MARKER = re.compile(rb"(?s)\xff+([^\x00\xff\xd0-\xd7])")  # in scan data, 00 and restarts are not markers
#: test continuations of a truncated scan: if any bits are missing, some of these change pixels
_CONTINUATIONS = (b"\x55\xaa\x33\xcc" * 16, b"\xb6\x6d\xdb\x49\x92\x24" * 12)
#: this many zero bytes at the end mean that the file was preallocated longer than its content
_ZEROS = 64


class _Segment(NamedTuple):
    marker: int
    start: int
    content: bytes
    end: int


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yield the segments after the start marker, skipping scan data; stop at the end marker or the end of the file."""
    place = 2
    while found := _MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == _EOI[1]:
            yield _Segment(marker, found.start(), b"", place)
            return
        if marker in (0x01, 0xD8):
            continue
        length = max(2, int.from_bytes(data[place : place + 2], "big"))
        content, place = data[place + 2 : place + length], place + length
        yield _Segment(marker, found.start(), content, place)


def jpeg(data: bytes) -> bytes | None:
    """Return a JPEG without damaged or unneeded application data and comments; None if no scan is found."""
    parts = [data[:2]]
    for segment in _segments(data):
        if segment.marker == _SOS:
            return b"".join(parts) + data[segment.start :]
        kept = _APP_KEPT.get(segment.marker, rb"(?!)")
        if segment.marker not in _APPS or re.match(kept, segment.content, re.DOTALL):
            size = struct.pack(">H", len(segment.content) + 2)
            parts.append(bytes((0xFF, segment.marker)) + size + segment.content)
    return None


def jpeg_ends(data: bytes) -> bool:
    """Return whether a JPEG has its end marker; data after the marker does not matter."""
    return data.endswith(_EOI) or any(segment.marker == _EOI[1] for segment in _segments(data))


def jpeg_with_end(data: bytes, decode: Callable[[bytes], bytes]) -> bytes | None:
    """Return a JPEG that lacks only its end marker, with the marker added; None if pixels may be missing too.

    No pixels are missing if no possible continuation changes a pixel. `decode` returns the pixels of a file, or a
    digest of them; its exceptions propagate.
    """
    if not _every_coefficient_is_there(data):
        return None
    body = data.rstrip(b"\0")
    if len(data) - len(body) < _ZEROS:  # the zeros belong to the scan
        body = data.rstrip(b"\xff")
    elif body.endswith(b"\xff"):  # in scan data, FF is always followed by a zero
        body += b"\0"
    restarts = any(segment.marker == _DRI for segment in _segments(data))
    return body + _EOI if _is_whole(body, decode, restarts) else None


def _is_whole(body: bytes, decode: Callable[[bytes], bytes], restarts: bool) -> bool:
    """Return whether none of the test continuations of `body` changes a pixel."""
    pixels = decode(body + _EOI)
    starts = (b"", _next_restart(body)) if restarts else (b"",)
    return all(decode(body + start + more + _EOI) == pixels for start in starts for more in _CONTINUATIONS)


def _next_restart(data: bytes) -> bytes:
    """Return the restart marker that follows the last one; they are numbered cyclically from 0 to 7."""
    last, number = max((data.rfind(bytes((0xFF, 0xD0 + number))), number) for number in range(8))
    return bytes((0xFF, 0xD0 + (number + 1) % 8 if last >= 0 else 0xD0))


def _every_coefficient_is_there(data: bytes) -> bool:
    """Return whether the scans cover every coefficient of every component down to its last bit."""
    missing: dict[int, set[int]] = {}
    for marker, _, content, _ in _segments(data):
        if marker in _FRAMES and len(content) >= 6:
            missing = {component: set(range(64)) for component in content[6::3]}
        elif marker == _SOS and content and len(content) >= 4 + 2 * content[0]:
            first, last, bits = content[1 + 2 * content[0] :][:3]
            for component in content[1 : 1 + 2 * content[0] : 2]:
                if bits & 15 == 0:
                    missing.get(component, set()).difference_update(range(first, last + 1))
    return bool(missing) and not any(missing.values())


REPAIRS: dict[str, Callable[[bytes], bytes | None]] = {
    "Jpeg": jpeg,
    "Png": png,
    "WebP": webp,
    "Gif": gif,
    "Tiff": tiff,
}
