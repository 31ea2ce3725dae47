"""Common JSON formats: a list, or lines, of {"image": "1.jpg", "caption": "a dog"}, or {"1.jpg": ["a dog"]}.

A caption may be a list of captions, and the list may be nested in an object, by split ({"train": [...]}) or under any
single name ({"data": [...]}). BLIP's files (https://github.com/salesforce/BLIP) have this format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captionkit.data.layouts.assemble import CaptionRow, Place, StatedImage, by_image
from captionkit.data.layouts.caption_set import Problem, is_id, split_of_file, split_of_folder, whole
from captionkit.data.layouts.caption_values import CAPTION_COLUMNS, holds_captions
from captionkit.data.layouts.csv import IMAGE_COLUMNS
from captionkit.data.layouts.reading import keep_repeated, peek, read_json, read_json_lines
from captionkit.errors import DatasetError
from captionkit.utils.paths import IMAGE_SUFFIXES

LOOKS_FOR = '*.json or *.jsonl of {"image": ..., "caption": ...}, or {"1.jpg": ["a caption"]}'
_LINES = (".jsonl", ".ndjson")
_DEEPEST = 8  # nesting depth to which the first entry is searched at the start of a file


def detect(place: Place) -> list[Path]:
    """Return the JSON files that begin with such an entry.

    One with an id and no file only if it was named explicitly.
    """
    files = place.files("*.json", "*.jsonl", "*.ndjson")
    return [file for file in files if _fits(file, pointed_at=bool(place.file)) and (place.file or not _of_shard(file))]


def _of_shard(file: Path) -> bool:
    """Return whether a file holds the records of the tar shard beside it, as `captionkit bulk` writes them."""
    return file.with_suffix(".tar").is_file()


def read(place: Place, files: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images in the order in which each file first names them."""
    for file in files:
        source, split = place.name(file), split_of_file(file.stem) or ""
        yield from entries(_content(file), file, source, split)


def entries(content: Any, file: Path, source: str, split: str) -> Iterator[StatedImage | Problem]:
    """Yield the images of parsed `content`. Raises DatasetError if it does not have this format."""
    if not isinstance(content, (list, dict)):
        raise DatasetError(f'{file}: not captions by image, such as [{{"image", "caption"}}]; name its layout')
    stated = (
        row if isinstance(row, Problem) or row.split else row._replace(split=split) for row in _rows(content, source)
    )
    yield from by_image(stated, source)


def record(value: Any, where: str, ids: tuple[str, ...] = ()) -> CaptionRow | Problem:
    """Return the row of one object; `ids` are the keys that may give an id in place of an image file."""
    if isinstance(value, dict):
        image = _file_of(value) or next(
            (str(whole(value[name])) for name in ids if is_id(whole(value.get(name)))), None
        )
        if image:
            return CaptionRow(image, _captions(value), str(value.get("split") or ""))
    wanted = '"file_name"' if not ids else '"image" (or "file_name", ...) and a "caption"'
    return Problem("malformed entry", where, f"it needs a {wanted}")


def _file_of(entry: Any) -> str:
    """Return the image file that an object names; "" if it names none or is not an object."""
    columns = IMAGE_COLUMNS if isinstance(entry, dict) else ()
    return next((name for column in columns if (name := _file_name(entry.get(column)))), "")


def _file_name(value: Any) -> str:
    if isinstance(value, dict):  # an image as printed by Hugging Face datasets
        value = value.get("path") or value.get("file_name")
    return value if isinstance(value, str) else ""


def _captions(value: dict[str, Any]) -> list[object]:
    captions: object = next((value[name] for name in CAPTION_COLUMNS if name in value), [])
    return captions if isinstance(captions, list) else [captions]


def _content(file: Path) -> Any:
    """Return the value of a file; a list of the values of its lines for JSON lines."""
    if file.suffix.casefold() in _LINES or _is_lines(peek(file)[0]):
        return [value for _, value in read_json_lines(file)]
    return read_json(file, pairs_hook=keep_repeated)


def _rows(content: Any, source: str, split: str = "") -> Iterator[CaptionRow | Problem]:
    if isinstance(content, list) and not (content and isinstance(content[0], tuple)):
        for index, value in enumerate(content):
            row = record(value, f"{source}: entry {index}", ("image_id", "id"))
            yield row if isinstance(row, Problem) or row.split else row._replace(split=split)
        return
    pairs = list(content.items()) if isinstance(content, dict) else [pair for pair in content if len(pair) == 2]
    inner = [(key, value) for key, value in pairs if _is_inner(key, value)]
    for key, value in inner:
        yield from _rows(value, source, split_of_folder(key) or split)
    if inner:
        return  # the rest describes the file, not images
    seen: set[str] = set()
    for key, value in pairs:
        if not key or not holds_captions(value):
            yield Problem("malformed entry", f"{source}: {key[:80]!a}", "it needs the captions of an image")
            continue
        if key in seen:
            yield Problem("duplicate id", key, f"{source}: the key occurs more than once; its captions are joined")
        seen.add(key)
        yield CaptionRow(key, value if isinstance(value, list) else [value], split)


def _is_inner(key: str, value: Any) -> bool:
    """Return whether a value contains images, rather than the captions of one."""
    if isinstance(value, list) and value:
        return isinstance(value[0], dict) and _names_image(value[0], ids=True)
    return isinstance(value, dict) and split_of_folder(key) is not None


def _names_image(value: Any, *, ids: bool) -> bool:
    if not isinstance(value, dict) or not any(name in value for name in CAPTION_COLUMNS):
        return False
    return bool(_file_of(value)) or (ids and is_id(whole(value.get("image_id"))))


def _fits(file: Path, *, pointed_at: bool) -> bool:
    head = peek(file)[0].lstrip()
    for _ in range(_DEEPEST):
        value, rest = _first(head)
        if _names_image(value, ids=pointed_at):
            return True
        if not head.startswith("{") or _file_of(value):  # an entry, but without captions
            return False
        if isinstance(value, dict):  # a short file, parsed completely
            return any(_fits_pair(key, inner, pointed_at) for key, inner in value.items())
        key, rest = _first(head[1:].lstrip())
        inner = rest.lstrip().removeprefix(":").lstrip()
        if not isinstance(key, str) or not inner:
            return False
        captions, _ = _first(inner) if inner[0] in '"{' else _first_in_list(inner)
        if isinstance(captions, (str, list, dict)) and _fits_pair(key, captions, pointed_at):
            return True
        head = inner
    return False


def _fits_pair(key: str, value: Any, pointed_at: bool) -> bool:
    if isinstance(value, list) and value and _names_image(value[0], ids=pointed_at):
        return True
    if isinstance(value, dict) and _names_image(value, ids=pointed_at):
        return True
    if isinstance(value, dict) and split_of_folder(key):
        return any(_fits_pair(inner, captions, pointed_at) for inner, captions in value.items())
    named = key.casefold().endswith(IMAGE_SUFFIXES) or re.fullmatch("[0-9]{1,18}", key)
    return bool(named or pointed_at) and bool(value) and holds_captions(value)


def _first(text: str) -> tuple[Any, str]:
    """Return the JSON value at the start of `text`, or the first item if that is a list, and the text after it."""
    if text.startswith("["):
        return _first_in_list(text)
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, ""
    return value, text[end:]


def _first_in_list(text: str) -> tuple[Any, str]:
    inner = text.removeprefix("[").lstrip()
    return _first(inner) if inner and inner[0] in '{"' else (None, "")


def _is_lines(head: str) -> bool:
    value, rest = _first(head.lstrip()) if head.lstrip().startswith("{") else (None, "")
    return isinstance(value, dict) and rest.lstrip().startswith("{")
