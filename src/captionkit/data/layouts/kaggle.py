"""Kaggle's Flickr8k: captions.txt with the header `image,caption` and the images in Images/.

A caption with commas may or may not be quoted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from captionkit.data.layouts.assemble import CaptionRow, Place, StatedImage, by_image
from captionkit.data.layouts.caption_set import Problem
from captionkit.data.layouts.reading import peek_line, read_lines

LOOKS_FOR = "captions.txt with the header image,caption"


def detect(place: Place) -> list[Path]:
    """Return captions.txt if its first line is that header."""
    return [file for file in place.files("captions.txt") if _is_header(peek_line(file))]


def read(place: Place, files: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images in the order of their first lines."""
    for file in files:
        yield from by_image(_rows(file, place.name(file)), place.name(file))


def _is_header(line: str) -> bool:
    return line.casefold().replace('"', "").replace(" ", "") == "image,caption"


def _rows(file: Path, source: str) -> Iterator[CaptionRow | Problem]:
    for number, line in read_lines(file):
        if number == 1 and _is_header(line):
            continue
        image, caption = _fields(line)
        if image.strip():
            yield CaptionRow(image.strip(), [caption], "")
        else:
            yield Problem("caption without image", f"{source}, line {number}", ascii(line[:80]))


def _fields(line: str) -> tuple[str, str]:
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error:  # a quote that belongs to the caption
        fields = []
    if len(fields) == 2:
        return fields[0], fields[1]
    image, _, caption = line.partition(",")
    return image, caption
