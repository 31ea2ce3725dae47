"""Decode images from data: URLs and base64; the only place in the service that does so."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from captionkit.serve.errors import RefusalError

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):")
_BLANKS = b" \t\r\n\v\f"
#: maps base64url's two special characters to standard base64
_STANDARD = bytes.maketrans(b"-_", b"+/")
#: number of characters unquoted at a time: unquote splits at each escape, so one call could make millions of pieces
_UNQUOTED_AT_ONCE = 2**13


def scheme_of(text: str) -> str:
    """Return the lower-case URL scheme of a text, or "" if it has none."""
    found = _SCHEME.match(text[:64])
    return found[1].lower() if found else ""


def decode(text: str, most: int) -> bytes:
    """Decode a data: URL or plain base64 to bytes.

    Base64 may be standard or URL-safe, padded or not, on one line or several, and percent-encoded. Raises RefusalError:
    413 if the result would exceed `most` bytes, 422 if the text is neither.
    """
    try:
        given = text.encode("ascii").strip(_BLANKS)
    except UnicodeEncodeError:
        raise RefusalError(422, "not in base64, which is letters, digits and a few signs of ASCII") from None
    if b"%" in given:
        given = _unquoted(given)
    if given[:5].lower() == b"data:":
        return _of_data_url(given, most)
    return _of_base64(given, most)


def _of_data_url(url: bytes, most: int) -> bytes:
    head, comma, content = url.partition(b",")
    if not comma:
        raise RefusalError(422, "a data: URL has a comma before its content: data:image/jpeg;base64,...")
    parameters = [part.strip().lower() for part in head[len("data:") :].split(b";")]
    if b"base64" in parameters:
        return _of_base64(content, most)
    _check_size(len(content), most)
    return content


def _of_base64(given: bytes, most: int) -> bytes:
    letters = given.translate(_STANDARD, _BLANKS).rstrip(b"=")
    _check_size(len(letters) * 3 // 4, most)
    try:
        return base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise RefusalError(422, "not in base64; send the bytes of the file in base64, or a data: URL") from None


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise RefusalError(413, f"{size:,} bytes are more than the {most:,} that an image may have")


def _unquoted(given: bytes) -> bytes:
    """Undo percent-encoding in chunks that do not split an escape."""
    found, start = bytearray(), 0
    while start < len(given):
        end = start + _UNQUOTED_AT_ONCE
        cut = given.rfind(b"%", end - 2, end) if end < len(given) else -1
        end = cut if cut > start else end
        found += unquote_to_bytes(given[start:end])
        start = end
    return bytes(found)
