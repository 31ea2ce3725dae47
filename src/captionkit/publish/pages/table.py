"""CSV and TSV: empty cells in the alt text's column, of rows that name an image."""

from __future__ import annotations

import re
from functools import partial

from captionkit.data.layouts.csv import IMAGE_COLUMNS
from captionkit.errors import CaptionkitError
from captionkit.publish.pages.gap import Gap

ALT_COLUMNS = ("alt", "alt_text", "alttext", "alt text", "alternative_text", "image_alt")
"""What alt text's column is called, the likeliest first."""

_QUOTED = rb'"(?:[^"]|"")*"'


def gaps(content: bytes, *, column: str = "", optional: bool = False) -> list[Gap]:
    """Return the empty cells of `column`, or of the first in ALT_COLUMNS.

    Raises CaptionkitError if there is no such column or none that names images, unless the file is `optional`, and for
    a cell that is not closed.
    """
    start = 3 if content.startswith(b"\xef\xbb\xbf") else 0
    delimiter = _delimiter(content[start:])
    rows = _rows(content, start, delimiter)
    if not rows:
        return []
    header = [_value(content, cell).strip().casefold() for cell in rows[0]]
    if optional and not (set(header) & {column.casefold(), *ALT_COLUMNS} and set(header) & set(IMAGE_COLUMNS)):
        return []
    alt = _column(header, (column.casefold(),) if column else ALT_COLUMNS, "--column names the one for alt text")
    image = _column(header, IMAGE_COLUMNS, "one is called image, file_name or path")
    return [
        Gap(*row[alt], _value(content, row[image]).strip(), partial(_cell, delimiter=delimiter.decode()))
        for row in rows[1:]
        if len(row) > max(alt, image) and not _value(content, row[alt]).strip() and _value(content, row[image]).strip()
    ]


def _column(header: list[str], names: tuple[str, ...], way_out: str) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise CaptionkitError(f"has no column {names[0]!r} (its columns are {', '.join(header)[:200]}); {way_out}")


def _delimiter(content: bytes) -> bytes:
    header = re.sub(_QUOTED, b"", re.split(rb"[\r\n]", content, maxsplit=1)[0])
    return max((b",", b"\t", b";", b"|"), key=header.count)


def _rows(content: bytes, start: int, delimiter: bytes) -> list[list[tuple[int, int]]]:
    """Return the places of the cells of each row, quotes included."""
    other = rb"[^" + re.escape(delimiter) + rb"\r\n]"
    cell = re.compile(_QUOTED + rb"|(?!\")" + other + rb"+|")
    rows: list[list[tuple[int, int]]] = [[]]
    place = start
    while place <= len(content):
        found = cell.match(content, place)
        end = found.end() if found else place
        after = content[end : end + 1]
        if after not in (b"", delimiter, b"\r", b"\n"):
            line = content.count(b"\n", 0, place) + 1
            raise CaptionkitError(f"line {line}: a quoted cell is not closed as CSV asks; fix it")
        rows[-1].append((place, end))
        if after in (b"\r", b"\n"):
            end += content[end : end + 2] == b"\r\n"
            rows.append([])
        place = end + 1
    return [row for row in rows if len(row) > 1]


def _value(content: bytes, cell: tuple[int, int]) -> str:
    text = content[slice(*cell)].decode("utf-8", "replace")
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def _cell(text: str, *, delimiter: str) -> bytes:
    quoted = any(character in text for character in (delimiter, '"', "\n", "\r"))
    return ('"' + text.replace('"', '""') + '"' if quoted else text).encode()
