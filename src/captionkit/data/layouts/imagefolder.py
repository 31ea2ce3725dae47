"""Hugging Face's ImageFolder: metadata.jsonl or metadata.csv with "file_name" and "text" or "caption" (one, or a list).

https://huggingface.co/docs/datasets/image_dataset. One metadata file for all, or one in each of train/, validation/ and
test/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from captionkit.data.layouts.assemble import CaptionRow, Place, StatedImage, by_image
from captionkit.data.layouts.caption_set import Problem, split_of_folder
from captionkit.data.layouts.csv import rows
from captionkit.data.layouts.json_records import record
from captionkit.data.layouts.reading import peek, read_json_lines

LOOKS_FOR = "metadata.jsonl or metadata.csv with file_name, here or in train/, validation/, test/"
_NAMES = ("metadata.jsonl", "metadata.csv")


def detect(place: Place) -> list[Path]:
    """Return the metadata file here and in each split's folder."""
    if place.file:
        files = place.files(*_NAMES)
    else:
        folders = [place.root, *place.split_folders()]
        named = ([folder / name for name in _NAMES if (folder / name).is_file()] for folder in folders)
        files = [found[0] for found in named if found]
    return [file for file in files if "file_name" in peek(file)[0]]


def read(place: Place, files: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images in the order of the metadata; an image's id is its path from the root."""
    for file in files:
        source = place.name(file)
        stated = rows(file, source) if file.suffix.casefold() == ".csv" else _json_rows(file, source)
        yield from by_image((row if isinstance(row, Problem) else _placed(row, place, file) for row in stated), source)


def _placed(row: CaptionRow, place: Place, file: Path) -> CaptionRow:
    """Return the row with its path from the root and, unless it states its split, the split of its folder."""
    image = row.image if file.parent == place.root else f"{place.name(file.parent)}/{row.image}"
    folders = (file.parent.name, row.image.split("/", 1)[0])
    split = row.split or next(filter(None, map(split_of_folder, folders)), "")
    return CaptionRow(image, row.captions, split, row.label)


def _json_rows(file: Path, source: str) -> Iterator[CaptionRow | Problem]:
    for line, value in read_json_lines(file):
        yield record(value, f"{source}, line {line}")
