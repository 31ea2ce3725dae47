"""Recognition, by their first bytes, of files that are not readable images, with advice for each kind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_LOOKED_AT = 4096  # bytes at the start of a file


class Lookalike(NamedTuple):
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
RAW = Lookalike("a camera's RAW file", _INSTALL.format("raw"))
HEIC = Lookalike("a HEIC image", _INSTALL.format("heif"))
HEIC_START = rb"\0...ftyp(hei[cmsx]|hev[cmsx]|m[is]f1)"
#: some of these begin like a TIFF
RAW_START = rb"II\*\0\x10\0\0\0CR|IIR[OS]|MMOR|IIU\0|FUJIFILMCCD-RAW|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR|\0...ftypcrx "
_JP2 = Lookalike("a JPEG 2000 image", "convert it: opj_decompress -i IN.jp2 -o OUT.png (package libopenjp2-tools)")
_JXL = Lookalike("a JPEG XL image", "convert it: djxl IN.jxl OUT.png (package libjxl-tools)")
_SVG = Lookalike("an SVG drawing", "convert it: rsvg-convert IN.svg -o OUT.png (package librsvg2-bin)")
_WEB_PAGE = Lookalike("a web page", f"the server sent it in place of the image; {_AGAIN}")

# Patterns for the first bytes, and the kind of file. The first match counts.
_BY_START: tuple[tuple[bytes, Lookalike], ...] = (
    (
        rb"version https://git-lfs\.github\.com/",
        Lookalike("a Git LFS pointer", "fetch what it points to: git lfs pull"),
    ),
    (
        rb"(\.\./)*(\.git)?/annex/objects/",
        Lookalike("a git-annex pointer", "fetch what it points to: git annex get NAME"),
    ),
    (rb"\x1f\x8b", Lookalike("a gzip archive (.gz, .tar.gz)", _UNPACK)),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", Lookalike("a ZIP archive", _UNPACK)),
    (rb"BZh[1-9]", Lookalike("a bzip2 archive", _UNPACK)),
    (rb"\xfd7zXZ\0", Lookalike("an xz archive", _UNPACK)),
    (rb"\x28\xb5\x2f\xfd", Lookalike("a zstd archive", _UNPACK)),
    (rb"7z\xbc\xaf\x27\x1c", Lookalike("a 7z archive", _UNPACK)),
    (rb"Rar!\x1a\x07", Lookalike("a RAR archive", _UNPACK)),
    (rb".{257}ustar", Lookalike("a tar archive", "end its name in .tar, and the images in it are captioned")),
    (rb"%PDF-", Lookalike("a PDF document", "make images of its pages: pdftoppm -jpeg IN.pdf PAGE")),
    (
        rb"(\xc5\xd0\xd3\xc6|%!PS)",
        Lookalike("a PostScript document", "convert it: gs -sDEVICE=png16m -o OUT.png IN.eps"),
    ),
    (rb"\0...ftyp|\0...(moov|mdat|wide|free|skip)", Lookalike("a video (MP4 or QuickTime)", _FRAME)),
    (rb"\x1a\x45\xdf\xa3", Lookalike("a video (WebM or Matroska)", _FRAME)),
    (rb"RIFF....AVI ", Lookalike("a video (AVI)", _FRAME)),
    (rb"\0\0\x01[\xba\xb3]|FLV\x01|OggS\0|\x30\x26\xb2\x75\x8e\x66\xcf\x11", Lookalike("a video", _FRAME)),
    (rb"RIFF....WAVE|ID3[\2-\4]|fLaC", Lookalike("a sound file", "give an image")),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", _JXL),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", _JP2),
    (rb"8BPS", Lookalike("a Photoshop document", _EXPORT)),
    (rb"gimp xcf ", Lookalike("a GIMP document", _EXPORT)),
    (rb"\0\0[\1\2]\0[^\0]", Lookalike("a Windows icon or cursor", _EXPORT)),
    (
        rb"DDS \x7c|v/1\x01|#\?RADIANCE|qoif\0|icns\0|\x8aMNG|\x8bJNG|\xd7\xcd\xc6\x9a",
        Lookalike("an image of a rare kind", _EXPORT),
    ),
    (rb"SIMPLE  =|.{128}DICM", Lookalike("a scientific or medical image", "save a view of it as PNG")),
    (rb"\x93NUMPY", Lookalike("a NumPy array", "give the array itself to captionkit in Python, or save it as PNG")),
    (rb"\x89HDF", Lookalike("an HDF5 file", "save the images in it as PNG")),
    (
        rb"\0\x05\x16\x07",
        Lookalike("what macOS keeps beside a file (AppleDouble)", "give the file without ._ before its name"),
    ),
    (
        rb"\x89?PNG(\r\r\n|\n|\r\n\x1a\r)|(\xef\xbf\xbd){1,3}(PNG|JFIF|.{0,9}Exif)|(\xef\xbf\xbd){3}|\xc3\xbf\xc3\x98\xc3\xbf|\xc2\x89PNG",
        Lookalike("an image that was copied as text, which changed its bytes", "copy or download it again as binary"),
    ),
    (rb"\xff\xd8|\x89PNG|RIFF....WEBP", Lookalike("the damaged start of an image", _AGAIN)),
)

# The same for text, after stripping white space and a byte order mark.
_BY_TEXT: tuple[tuple[bytes, Lookalike], ...] = (
    (
        rb"(?i)(<\?xml.{0,200}?>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body|title|script|meta|h1|p|div)\b",
        _WEB_PAGE,
    ),
    (rb"(?i)(<\?xml.*?)?(<!--.*?-->\s*)*(<!doctype svg.*?)?<(\w+:)?svg\b", _SVG),
    (
        rb"<\?xml|<\w+[\s>/]",
        Lookalike("an XML document", f"a server may have sent an error in place of the image; {_AGAIN}"),
    ),
    (
        rb"\{\s*(\"|\})|\[\s*[\[{\"\d\]]",
        Lookalike("a JSON document", f"a server may have sent an error in place of the image; {_AGAIN}"),
    ),
    (
        rb"data:image/|/9j/[\w+/\s=]{16}|iVBORw0KGgo|R0lGOD[dl]h|UklGR",
        Lookalike("an image in base64 text", "decode it: base64 -d IN > OUT (without what precedes a comma)"),
    ),
    (rb"https?://", Lookalike("a text file with a URL", _AGAIN)),
)


def look(data: bytes) -> Lookalike | None:
    """Return the kind of file that begins with `data`; None if it is unknown."""
    start = data[:_LOOKED_AT]
    if not start.strip(b"\0"):
        return Lookalike("nothing but zero bytes", f"it was never wholly written; {_AGAIN}")
    return _match(start, _BY_START) or _as_text(start)


def _as_text(start: bytes) -> Lookalike | None:
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
    return Lookalike("a text file", f"look into it; {_AGAIN}")


def _match(start: bytes, table: Iterable[tuple[bytes, Lookalike]]) -> Lookalike | None:
    return next((found for pattern, found in table if re.match(pattern, start, re.DOTALL)), None)
