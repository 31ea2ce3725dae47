"""Standard input: one image, or a list of paths in any format that programs write.

A list has one path per line, or paths separated by NULs (`find -print0`), in UTF-8 or UTF-16 (Windows shells), with or
without a byte order mark. A name that is not valid UTF-8 keeps its bytes.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from captionkit.data.images import MAX_BYTES
from captionkit.errors import CaptionkitError

_SNIFF = 1024  # bytes read to tell an image from a list
_LONGEST = 1 << 16  # characters of a path, more than any system allows
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")  # in neither paths nor separators
#: image signatures whose first line could be a path, so that more has to be read
_DOUBTFUL = (b"BM", b"GIF8", b"RIFF", b"II*", b"MM", *(b"P%d" % kind for kind in range(1, 7)))
_PLAIN_PIXMAP = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s")
#: the start of text files that are neither an image nor a list, such as a server's error page
_NO_LIST = (b"<!doctype", b"<html", b"<?xml", b"<svg", b"version https://git-lfs")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is a prefix of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class _Form(NamedTuple):
    """The format of a list."""

    encoding: str = "utf-8"
    separator: str = "\n"


def read_piped(stream: BinaryIO) -> bytes | Iterator[str]:
    """Return the bytes of one image, or an iterator over the paths of a list, yielded as they arrive.

    An image is read up to one byte beyond the size limit. Empty input is an empty list. Raises OSError, and
    CaptionkitError during the iteration if a path is too long.
    """
    start = stream.readline(_SNIFF)
    form = _form_of_line(start) if start else _Form()
    if form is None:
        start += stream.read(_SNIFF - len(start))
        form = _form(start)
    return start + stream.read(MAX_BYTES + 1 - len(start)) if form is None else _paths(start, stream, form)


def _form_of_line(line: bytes) -> _Form | None:
    """Return the format of a list that its first line already identifies, so that nothing waits for a second line."""
    if b"\0" in line or not line.strip() or line.startswith((*_DOUBTFUL, *_MARKS)) or _is_other(line):
        return None
    try:
        return None if _CONTROL.search(line.decode("utf-8")) else _Form()
    except UnicodeDecodeError:
        return None


def _form(start: bytes) -> _Form | None:
    """Return the format of the list that begins with these bytes; None for an image or anything else."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return _Form(encoding)
    if b"\0" in start:
        for first, encoding in enumerate(("utf-16-be", "utf-16-le")):
            high, low = start[first::2], start[1 - first :: 2]  # every high byte of ASCII is 0
            if high.count(0) > len(high) / 2 and 0 not in low:
                return None if _CONTROL.search(low.decode("latin-1")) else _Form(encoding)
    if _CONTROL.search(start.decode("utf-8", "surrogateescape")) or _PLAIN_PIXMAP.match(start) or _is_other(start):
        return None
    if b"\0" not in start:
        return _Form()
    return _Form(separator="\0") if b"\0\0" not in start and not start.startswith(b"\0") else None


def _is_other(start: bytes) -> bool:
    return start.lstrip().lower().startswith(_NO_LIST)


def _paths(start: bytes, stream: BinaryIO, form: _Form) -> Iterator[str]:
    errors = "surrogateescape" if form.encoding.startswith("utf-8") else "replace"
    decoder = codecs.getincrementaldecoder(form.encoding)(errors)
    more, rest = start, ""
    while more:
        *whole, rest = (rest + decoder.decode(more)).split(form.separator)
        yield from _named(whole, form)
        if len(rest) > _LONGEST:
            raise CaptionkitError(f"-: more than {_LONGEST:,} characters are no path; the list is read no further")
        more = stream.readline(_SNIFF) if form.separator == "\n" else stream.read(_SNIFF)
    yield from _named([rest + decoder.decode(b"", final=True)], form)


def _named(records: list[str], form: _Form) -> Iterator[str]:
    """Yield the records that are not blank."""
    for record in records:
        path = record.rstrip("\r") if form.separator == "\n" else record
        if path.strip():
            yield path
