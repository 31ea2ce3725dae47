"""CSV and TSV with a header that names an image column and a caption column; one row an image, or one a caption.

Fields may be separated by commas, tabs, semicolons or bars; the Flickr30k file of Kaggle (results.csv: `image_name|
comment_number| comment`) is one of these. The split stands in a column called split, or in the file's name (train.csv);
the class that an image is known to be of, in one called class.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from captionkit.datasets.assemble import Entry, Place, Row, by_image
from captionkit.datasets.core import Problem, split_of_file
from captionkit.datasets.reading import first_line, peek_line, read_text
from captionkit.errors import DatasetError

IMAGE_COLUMNS = (
    *("file_name", "filename", "image", "image_name", "image_path", "image_file"),
    *("file", "file_path", "filepath", "path", "img"),
)
CAPTION_COLUMNS = ("caption", "captions", "text", "sentence", "sentences", "description", "comment")
LOOKS_FOR = "*.csv or *.tsv with an image column (image, file_name, ...) and a caption column (caption, text, ...)"


class _Columns(NamedTuple):
    delimiter: str
    width: int
    image: int
    caption: int
    split: int | None
    label: int | None


def detect(place: Place) -> list[Path]:
    """The tables whose header names an image and a caption column."""
    return [file for file in place.files("*.csv", "*.tsv", "captions.txt") if _columns(peek_line(file))]


def read(place: Place, files: list[Path]) -> Iterator[Entry | Problem]:
    """The images in the order of their first rows."""
    for file in files:
        source, split = place.name(file), split_of_file(file.stem) or ""
        stated = (
            row if isinstance(row, Problem) or row.split else row._replace(split=split) for row in rows(file, source)
        )
        yield from by_image(stated, source)


def rows(file: Path, source: str) -> Iterator[Row | Problem]:
    """The rows after the header. A file that is not CSV raises DatasetError; a row that does not fit is a Problem."""
    text = read_text(file)
    header = _columns(first_line(text))
    if header is None:
        raise DatasetError(f"{file}, line 1: the header names no image or no caption column; looked for {LOOKS_FOR}")
    if header.delimiter == "|":  # Kaggle's Flickr30k file neither quotes nor escapes
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


def _columns(header: str) -> _Columns | None:
    """What a header line says, in the first delimiter by which it names both an image and a caption column."""
    for delimiter in ",\t;|":
        cells = next(csv.reader([header], delimiter=delimiter), [])
        names = [re.sub(r"[\s-]+", "_", cell.strip().casefold()) for cell in cells]
        image = next((names.index(name) for name in IMAGE_COLUMNS if name in names), None)
        caption = next((names.index(name) for name in CAPTION_COLUMNS if name in names), None)
        if image is not None and caption is not None:
            split, label = (names.index(name) if name in names else None for name in ("split", "class"))
            return _Columns(delimiter, len(names), image, caption, split, label)
    return None


def _row(cells: list[str], header: _Columns, where: str) -> Row | Problem:
    if len(cells) > header.width and header.caption == header.width - 1:
        cells = [*cells[: header.caption], header.delimiter.join(cells[header.caption :])]  # commas left unquoted
    if len(cells) != header.width:
        return Problem("malformed row", where, f"{len(cells)} fields where the header has {header.width}")
    image, caption = cells[header.image].strip(), cells[header.caption]
    if not image:
        return Problem("caption without image", where, ascii(caption[:80]))
    split, label = ("" if column is None else cells[column].strip() for column in (header.split, header.label))
    return Row(image, _listed(caption), split, label)


def _listed(cell: str) -> list[object]:
    # A field can hold a JSON list of captions; other brackets belong to a caption.
    if cell.startswith('["') and cell.endswith('"]'):
        try:
            return list(json.loads(cell))
        except (ValueError, RecursionError):
            pass
    return [cell]
