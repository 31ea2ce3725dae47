"""Recognition, by their first bytes, of files that are not readable images, with advice for each kind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_LOOKED_AT = 4096  # bytes at the start of a file


class FileKind(NamedTuple):
    """What a file is ("a web page") and what the user can do about it ("download the image itself")."""

    what: str
    way_out: str


_AGAIN = "download the image itself"
_UNPACK = "unpack it first and give the images in it"
_FRAME = "take a frame of it: ffmpeg -i IN -frames:v 1 OUT.jpg"
_EXPORT = "save it as JPEG or PNG with the program that made it"
#: installs what opens images of a kind
_INSTALL = "`pip install 'captionkit[{}]'` opens it"
#: also used for a TIFF that contains raw sensor data and a small preview
RAW = FileKind("a camera's RAW file", _INSTALL.format("raw"))
HEIC = FileKind("a HEIC image", _INSTALL.format("heif"))
HEIC_START = rb"\0...ftyp(hei[cmsx]|hev[cmsx]|m[is]f1)"
#: some of these begin like a TIFF
RAW_START = rb"II\*\0\x10\0\0\0CR|IIR[OS]|MMOR|IIU\0|FUJIFILMCCD-RAW|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR|\0...ftypcrx "
_JP2 = FileKind("a JPEG 2000 image", "convert it: opj_decompress -i IN.jp2 -o OUT.png (package libopenjp2-tools)")
_JXL = FileKind("a JPEG XL image", "convert it: djxl IN.jxl OUT.png (package libjxl-tools)")
_SVG = FileKind("an SVG drawing", "convert it: rsvg-convert IN.svg -o OUT.png (package librsvg2-bin)")
_WEB_PAGE = FileKind("a web page", f"the server sent it in place of the image; {_AGAIN}")

# Patterns for the first bytes, and the kind of file. The first match counts.
_BY_START: tuple[tuple[bytes, FileKind], ...] = (
    (
        rb"version https://git-lfs\.github\.com/",
        FileKind("a Git LFS pointer", "fetch what it points to: git lfs pull"),
    ),
    (
        rb"(\.\./)*(\.git)?/annex/objects/",
        FileKind("a git-annex pointer", "fetch what it points to: git annex get NAME"),
    ),
    (rb"\x1f\x8b", FileKind("a gzip archive (.gz, .tar.gz)", _UNPACK)),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", FileKind("a ZIP archive", _UNPACK)),
    (rb"BZh[1-9]", FileKind("a bzip2 archive", _UNPACK)),
    (rb"\xfd7zXZ\0", FileKind("an xz archive", _UNPACK)),
    (rb"\x28\xb5\x2f\xfd", FileKind("a zstd archive", _UNPACK)),
    (rb"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", _UNPACK)),
    (rb"Rar!\x1a\x07", FileKind("a RAR archive", _UNPACK)),
    (rb".{257}ustar", FileKind("a tar archive", "end its name in .tar, and the images in it are captioned")),
    (rb"%PDF-", FileKind("a PDF document", "make images of its pages: pdftoppm -jpeg IN.pdf PAGE")),
    (
        rb"(\xc5\xd0\xd3\xc6|%!PS)",
        FileKind("a PostScript document", "convert it: gs -sDEVICE=png16m -o OUT.png IN.eps"),
    ),
    (rb"\0...ftyp|\0...(moov|mdat|wide|free|skip)", FileKind("a video (MP4 or QuickTime)", _FRAME)),
    (rb"\x1a\x45\xdf\xa3", FileKind("a video (WebM or Matroska)", _FRAME)),
    (rb"RIFF....AVI ", FileKind("a video (AVI)", _FRAME)),
    (rb"\0\0\x01[\xba\xb3]|FLV\x01|OggS\0|\x30\x26\xb2\x75\x8e\x66\xcf\x11", FileKind("a video", _FRAME)),
    (rb"RIFF....WAVE|ID3[\2-\4]|fLaC", FileKind("a sound file", "give an image")),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", _JXL),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", _JP2),
    (rb"8BPS", FileKind("a Photoshop document", _EXPORT)),
    (rb"gimp xcf ", FileKind("a GIMP document", _EXPORT)),
    (rb"\0\0[\1\2]\0[^\0]", FileKind("a Windows icon or cursor", _EXPORT)),
    (
        rb"DDS \x7c|v/1\x01|#\?RADIANCE|qoif\0|icns\0|\x8aMNG|\x8bJNG|\xd7\xcd\xc6\x9a",
        FileKind("an image of a rare kind", _EXPORT),
    ),
    (rb"SIMPLE  =|.{128}DICM", FileKind("a scientific or medical image", "save a view of it as PNG")),
    (rb"\x93NUMPY", FileKind("a NumPy array", "give the array itself to captionkit in Python, or save it as PNG")),
    (rb"\x89HDF", FileKind("an HDF5 file", "save the images in it as PNG")),
    (
        rb"\0\x05\x16\x07",
        FileKind("what macOS keeps beside a file (AppleDouble)", "give the file without ._ before its name"),
    ),
    (
        rb"\x89?PNG(\r\r\n|\n|\r\n\x1a\r)|(\xef\xbf\xbd){1,3}(PNG|JFIF|.{0,9}Exif)|(\xef\xbf\xbd){3}|\xc3\xbf\xc3\x98\xc3\xbf|\xc2\x89PNG",
        FileKind("an image that was copied as text, which changed its bytes", "copy or download it again as binary"),
    ),
    (rb"\xff\xd8|\x89PNG|RIFF....WEBP", FileKind("the damaged start of an image", _AGAIN)),
)

# The same for text, after stripping white space and a byte order mark.
_BY_TEXT: tuple[tuple[bytes, FileKind], ...] = (
    (
        rb"(?i)(<\?xml.{0,200}?>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body|title|script|meta|h1|p|div)\b",
        _WEB_PAGE,
    ),
    (rb"(?i)(<\?xml.*?)?(<!--.*?-->\s*)*(<!doctype svg.*?)?<(\w+:)?svg\b", _SVG),
    (
        rb"<\?xml|<\w+[\s>/]",
        FileKind("an XML document", f"a server may have sent an error in place of the image; {_AGAIN}"),
    ),
    (
        rb"\{\s*(\"|\})|\[\s*[\[{\"\d\]]",
        FileKind("a JSON document", f"a server may have sent an error in place of the image; {_AGAIN}"),
    ),
    (
        rb"data:image/|/9j/[\w+/\s=]{16}|iVBORw0KGgo|R0lGOD[dl]h|UklGR",
        FileKind("an image in base64 text", "decode it: base64 -d IN > OUT (without what precedes a comma)"),
    ),
    (rb"https?://", FileKind("a text file with a URL", _AGAIN)),
)


def identify(data: bytes) -> FileKind | None:
    """Return the kind of file that begins with `data`; None if it is unknown."""
    start = data[:_LOOKED_AT]
    if not start.strip(b"\0"):
        return FileKind("nothing but zero bytes", f"it was never wholly written; {_AGAIN}")
    return _match(start, _BY_START) or _as_text(start)


def _as_text(start: bytes) -> FileKind | None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        start = start.decode("utf-16", "ignore").encode()
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if found := _match(start, _BY_TEXT):
        return found
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:  # possibly a character cut at the end of the excerpt
        if error.start < len(start) - 3:
            return None
        text = start[: error.start].decode("utf-8")
    if any(not letter.isprintable() and not letter.isspace() for letter in text):
        return None
    return FileKind("a text file", f"look into it; {_AGAIN}")


def _match(start: bytes, table: Iterable[tuple[bytes, FileKind]]) -> FileKind | None:
    return next((found for pattern, found in table if re.match(pattern, start, re.DOTALL)), None)
