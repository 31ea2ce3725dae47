"""CSV and TSV with a header that names an image column and a caption column; one row per image or per caption.

The separator is a comma, tab, semicolon or bar; Kaggle's Flickr30k file (results.csv: `image_name| comment_number|
comment`) is one example. The split is in a column called split, or in the file's name (train.csv); the class of an
image is in a column called class. Without a header, each line begins with the name of an image file: `1.jpg,a dog`,
`1.jpg#0<TAB>a dog`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from captionkit.data.layouts.assemble import CaptionRow, Place, StatedImage, by_image
from captionkit.data.layouts.caption_set import Problem, split_of_file
from captionkit.data.layouts.caption_values import CAPTION_COLUMNS
from captionkit.data.layouts.reading import first_line, peek_line, read_lines, read_text
from captionkit.errors import DatasetError
from captionkit.utils.paths import IMAGE_SUFFIXES

IMAGE_COLUMNS = (
    *("file_name", "filename", "image", "image_name", "image_path", "image_file", "image_file_name"),
    *("file", "file_path", "filepath", "path", "img", "img_name", "img_path", "photo"),
)
"""What an image's file is called in a table or an object, the likeliest first."""

LOOKS_FOR = "*.csv or *.tsv with an image column (image, file_name, ...) and a caption column (caption, text, ...)"

_HINT = re.compile(r"sep=.\r?\n?", re.IGNORECASE)  # a hint for Excel, whose default separator depends on the language
_TEXT = re.compile(r"caption|annotation|token|result|descri|sentence|text|train|val|test|dev|data", re.IGNORECASE)
_ENDINGS = "|".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
_BARE = re.compile(rf'\s*"?([^"\t,;|]+?\.(?:{_ENDINGS}))(?:#\d+)?"?(\s*[\t,;|]\s*|\s+)(?=\S)', re.IGNORECASE)
_NUMBER = re.compile(r"\d+\s*[\t,;|]\s*")  # the comment's number, between image and comment


class _Columns(NamedTuple):
    delimiter: str
    width: int
    image: int
    by_row_id: bool  # the image's id is in a column called "id", as in many tables unrelated to images
    caption: int
    split: int | None
    label: int | None


def detect(place: Place) -> list[Path]:
    """Return the tables whose header names an image and a caption column, or whose first line begins with an image."""
    tables = place.files("*.csv", "*.tsv", "captions.txt")
    lists = [file for file in place.files("*.txt") if place.file or _TEXT.search(file.stem)]
    bare = [file for file in dict.fromkeys((*tables, *lists)) if _is_bare(file)]
    read_by_header = [file for file in tables if _is_table(file, pointed_at=bool(place.file))]
    return [file for file in dict.fromkeys((*tables, *lists)) if file in bare or file in read_by_header]


def read(place: Place, files: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images in the order of their first rows."""
    for file in files:
        source, split = place.name(file), split_of_file(file.stem) or ""
        stated = (
            row if isinstance(row, Problem) or row.split else row._replace(split=split) for row in rows(file, source)
        )
        yield from by_image(stated, source)


def rows(file: Path, source: str) -> Iterator[CaptionRow | Problem]:
    """Yield the rows after the header. Raises DatasetError if the file is not CSV; an invalid row becomes a Problem."""
    if bare_fields(peek_line(file)):
        yield from _bare_rows(file, source)
        return
    text = without_hint(read_text(file))
    header = _columns(first_line(text))
    if header is None:
        raise DatasetError(f"{file}, line 1: the header names no image or no caption column; looked for {LOOKS_FOR}")
    if header.delimiter == "|":  # Kaggle's Flickr30k file has neither quoting nor escaping
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="|", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=header.delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if line > 1 and any(cell.strip() for cell in cells):
                yield _row(cells, header, f"{source}, line {line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(f"{file}, line {line}: not valid CSV ({error}); double the quotes inside a field") from None


def without_hint(text: str) -> str:
    """Strip the line `sep=;` before a table's header, which tells Excel the separator."""
    hint = _HINT.match(text)
    return text[hint.end() :] if hint else text


def column_names(header: str, delimiter: str) -> list[str]:
    """Return the columns of a header line in lower case, with underscores for spaces and hyphens."""
    try:
        cells = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:  # a field longer than any name
        cells = []
    return [re.sub(r"[\s-]+", "_", cell.strip().casefold()) for cell in cells]


def bare_fields(line: str) -> tuple[str, str] | None:
    """Return (image, caption) of a line that begins with the name of an image file; None for any other."""
    found = _BARE.match(line)
    if not found:
        return None
    caption = line[found.end() :]
    if found[2].strip() or "\t" in found[2]:
        number = _NUMBER.match(caption)
        caption = caption[number.end() :] if number else caption
    quoted = re.fullmatch(r'"((?:[^"]|"")*)"\s*', caption)
    return found[1].strip(), quoted[1].replace('""', '"') if quoted else caption


def _is_table(file: Path, *, pointed_at: bool) -> bool:
    header = _columns(peek_line(file))
    return header is not None and (pointed_at or not header.by_row_id)


def _is_bare(file: Path) -> bool:
    fields = bare_fields(peek_line(file))
    return fields is not None and re.search(r"[^\W\d_]", fields[1]) is not None and "lemma" not in file.name.casefold()


def _bare_rows(file: Path, source: str) -> Iterator[CaptionRow | Problem]:
    for number, line in read_lines(file):
        fields = bare_fields(line)
        if fields:
            yield CaptionRow(fields[0], [fields[1]], "")
        else:
            detail = "it does not begin with the name of an image file and a separator"
            yield Problem("malformed row", f"{source}, line {number}", detail)


def _columns(header: str) -> _Columns | None:
    """Parse a header line with the first separator that gives both an image and a caption column."""
    for delimiter in ",\t;|":
        names = column_names(header, delimiter)
        image = next((name for name in (*IMAGE_COLUMNS, "image_id", "id") if name in names), None)
        caption = next((names.index(name) for name in CAPTION_COLUMNS if name in names), None)
        if image is not None and caption is not None:
            split, label = (names.index(name) if name in names else None for name in ("split", "class"))
            return _Columns(delimiter, len(names), names.index(image), image == "id", caption, split, label)
    return None


def _row(cells: list[str], header: _Columns, where: str) -> CaptionRow | Problem:
    if len(cells) > header.width and header.caption == header.width - 1:
        cells = [*cells[: header.caption], header.delimiter.join(cells[header.caption :])]  # unquoted commas
    if len(cells) != header.width:
        return Problem("malformed row", where, f"{len(cells)} fields where the header has {header.width}")
    image, caption = cells[header.image].strip(), cells[header.caption]
    if not image:
        return Problem("caption without image", where, ascii(caption[:80]))
    split, label = ("" if column is None else cells[column].strip() for column in (header.split, header.label))
    return CaptionRow(image, [caption], split, label)
