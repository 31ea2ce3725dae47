"""Candidates and references from whatever holds them: dictionaries, lists, caption sets, files."""

from __future__ import annotations

import csv
import io
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from captionkit import paths
from captionkit.datasets import CaptionSet, Dataset, Problem, stated_captions
from captionkit.datasets.core import is_id, normalise_split
from captionkit.datasets.reading import first_line, peek, read_json, read_json_lines, read_text
from captionkit.datasets.table import CAPTION_COLUMNS, IMAGE_COLUMNS
from captionkit.errors import CaptionkitError, DatasetError

Id = int | str

_SHAPE = '{id: caption} or [{"image_id", "caption"}, ...]'
_ID_COLUMNS = ("image_id", "id", *IMAGE_COLUMNS)


class Written(NamedTuple):
    """What people wrote of an image. `name` is its file's, or its id where no file is named."""

    id: Id
    name: str
    captions: tuple[str, ...]
    split: str


@dataclass
class Said:
    """Candidates by image id, and what they are called in messages."""

    captions: dict[Id, str]
    origin: str = "candidates"


@dataclass
class Wrote:
    """References, what they are called in messages, and what of them could not be used."""

    images: list[Written]
    origin: str = "references"
    problems: list[str] = field(default_factory=list)


Candidates = Said | Mapping[Id, str] | Sequence[Mapping[str, Any]] | str | os.PathLike[str]
References = Mapping[Id, Sequence[str]] | CaptionSet | Dataset | Wrote | str | os.PathLike[str]


def read_candidates(source: Candidates) -> Said:
    """One caption an image, from {id: caption}, COCO results, or a .json, .jsonl, .csv or .tsv file of them.

    Raises CaptionkitError where ids are missing or stand twice.
    """
    if isinstance(source, Said):
        return source
    if isinstance(source, Mapping):
        return Said({_plain(known): _one(caption, known, "candidates") for known, caption in source.items()})
    if isinstance(source, (str, os.PathLike)):
        return Said(_unique(_rows(Path(source)), str(source)), str(source))
    return Said(_unique(_results(source, "candidates"), "candidates"))


def read_references(source: References) -> Wrote:
    """The captions of each image, from {id: captions}, a caption set or dataset, or the file or folder of one.

    The pictures need not be there. Raises CaptionkitError.
    """
    if isinstance(source, Wrote):
        return source
    if isinstance(source, Mapping) and not isinstance(source, Dataset):
        plain = {_plain(known): some for known, some in source.items()}
        return Wrote([Written(known, str(known), _several(some, known), "") for known, some in plain.items()])
    if isinstance(source, (CaptionSet, Dataset)):
        parts = source.values() if isinstance(source, Dataset) else [source]
        return Wrote([Written(e.id, e.name, e.captions, part.split) for part in parts for e in part])
    if not isinstance(source, (str, os.PathLike)):
        raise CaptionkitError(
            f"references: {reprlib.repr(source)} has no image ids; give {{id: [caption, ...]}}, a dataset or its path"
        )
    _check_references(Path(source))
    wrote = Wrote([], str(source))
    for stated in stated_captions(source):
        if isinstance(stated, Problem):
            wrote.problems.append(f"{stated.kind}: {stated.where} ({stated.detail})")
            continue
        good = tuple(" ".join(text.split()) for text in stated.captions if isinstance(text, str) and text.strip())
        if len(good) < len(stated.captions):
            wrote.problems.append(f"{stated.file_name}: {len(stated.captions) - len(good)} captions are no text")
        wrote.images.append(Written(stated.id, stated.file_name, good, normalise_split(stated.split)))
    return wrote


def _several(captions: object, known: Id) -> tuple[str, ...]:
    if isinstance(captions, str):
        captions = (captions,)
    listed = tuple(captions) if isinstance(captions, Iterable) else (None,)
    if not all(isinstance(text, str) for text in listed):
        raise CaptionkitError(f"references: those of image {known!r} are not captions; give {{id: [caption, ...]}}")
    return tuple(text for text in listed if text.strip())


def _one(caption: object, known: object, origin: str) -> str:
    if isinstance(caption, (list, tuple)) and len(caption) == 1:  # as pycocoevalcap takes them
        caption = caption[0]
    if not isinstance(caption, str):
        several = "several captions" if isinstance(caption, (list, tuple)) and len(caption) else "no caption"
        raise CaptionkitError(f"{origin}: image {known!r} has {several}; one text for each image is scored")
    return caption


def _results(rows: object, origin: str) -> Iterator[tuple[Id, str, str]]:
    """(id, caption, where) of each entry of COCO results."""
    if not isinstance(rows, Sequence) or isinstance(rows, (str, bytes)):
        raise CaptionkitError(f"{origin}: not captions by image; give {_SHAPE}")
    for place, row in enumerate(rows):
        if isinstance(row, str):
            raise CaptionkitError(f"{origin}: a list of captions has no image ids; give {_SHAPE}")
        known = _plain(row.get("image_id")) if isinstance(row, Mapping) else None
        if known is None or not is_id(known) or "caption" not in row:
            raise CaptionkitError(f'{origin}: entry {place} needs an "image_id" and a "caption"; give {_SHAPE}')
        yield known, _one(row["caption"], known, origin), f"entry {place}"


def _unique(rows: Iterable[tuple[Id, str, str]], origin: str) -> dict[Id, str]:
    captions: dict[Id, str] = {}
    seen: dict[str, str] = {}
    for known, caption, where in rows:
        if first := seen.get(str(known)):
            raise CaptionkitError(f"{origin}: image {known!r} has two captions ({first} and {where}); keep one")
        seen[str(known)] = where
        captions[known] = caption
    return captions


def _rows(path: Path) -> Iterator[tuple[Id, str, str]]:
    """(id, caption, where) of each caption in a file."""
    readers = {".json": _json, ".jsonl": _json_lines, ".csv": _table, ".tsv": _table}
    if paths.is_folder(path, DatasetError):
        raise DatasetError(f"{path}: is a folder; name the results file in it, such as {path / 'results.json'}")
    if path.suffix.lower() not in readers:
        raise DatasetError(f"{path}: unknown kind of results file; its name must end in {', '.join(readers)}")
    try:
        yield from readers[path.suffix.lower()](path)
    except OSError as error:
        raise DatasetError(paths.unreadable(path, error)) from None


def _json(path: Path) -> Iterator[tuple[Id, str, str]]:
    content = read_json(path, pairs_hook=lambda pairs: _object(pairs, path))
    if not isinstance(content, dict):
        return _results(content, str(path))
    if {"annotations", "images"} & set(content):
        raise CaptionkitError(f"{path}: these are references, not results; name the references first, then {_SHAPE}")
    if {"image_id", "caption"} & set(content) or not all(isinstance(text, (str, list)) for text in content.values()):
        raise CaptionkitError(f"{path}: not captions by image; give {_SHAPE}")
    return ((known, _one(caption, known, str(path)), "twice") for known, caption in content.items())


def _object(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):  # which json.loads would pass over in silence
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CaptionkitError(f"{path}: {twice!r} stands twice in one object; keep one")
    return made


def _json_lines(path: Path) -> Iterator[tuple[Id, str, str]]:
    """COCO results one a line, or what `captionkit caption --json` prints; pictures that failed are passed over."""
    for number, row in read_json_lines(path):
        where = f"line {number}"
        if not (isinstance(row, dict) and isinstance(row.get("path"), str) and {"captions", "error"} & set(row)):
            yield from ((known, caption, where) for known, caption, _ in _results([row], f"{path}, {where}"))
        elif captions := row.get("captions"):
            if not isinstance(captions, list) or not isinstance(captions[0], dict):
                raise CaptionkitError(
                    f'{path}, {where}: its "captions" are not a list of {{"text", ...}}; write it anew'
                )
            yield row["path"], _one(captions[0].get("text"), row["path"], str(path)), where


def _table(path: Path) -> Iterator[tuple[Id, str, str]]:
    """A table with a header; of several ranked captions of a picture (`captionkit caption --output`), the first."""
    text = read_text(path)
    columns, delimiter = _columns(first_line(text), path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if line > 1 and any(cell.strip() for cell in cells):
                row = dict(zip(columns, _fitted(cells, columns, delimiter, f"{path}, line {line}"), strict=True))
                if not row["id"].strip():
                    raise CaptionkitError(f"{path}, line {line}: names no image; give each caption its image")
                if row.get("rank", "1") == "1" and not row.get("error"):
                    yield row["id"].strip(), row["caption"], f"line {line}"
            line = reader.line_num + 1
    except csv.Error as error:
        raise CaptionkitError(f"{path}, line {line}: not valid CSV ({error}); mend the quotes") from None


def _columns(header: str, path: Path) -> tuple[list[str], str]:
    """The columns, those of images and captions called "id" and "caption", and the delimiter that shows both."""
    for delimiter in ",\t;|":
        names = [re.sub(r"[\s-]+", "_", name.strip().casefold()) for name in header.split(delimiter)]
        names = [name.strip('"') for name in names]
        image = next((names.index(name) for name in _ID_COLUMNS if name in names), None)
        caption = next((names.index(name) for name in CAPTION_COLUMNS if name in names), None)
        if image is not None and caption is not None:
            known = {image: "id", caption: "caption"}
            return [
                known.get(place, f"{name} {place}" if name in known.values() else name)
                for place, name in enumerate(names)
            ], delimiter
    raise CaptionkitError(f"{path}, line 1: the header names no image_id (or image) or no caption column")


def _fitted(cells: list[str], columns: list[str], delimiter: str, where: str) -> list[str]:
    """A row as wide as the header: what a caption in the last column has too much are its own commas."""
    width = len(columns)
    if len(cells) > width and columns[-1] == "caption":
        cells = [*cells[: width - 1], delimiter.join(cells[width - 1 :])]
    if len(cells) != width:
        raise CaptionkitError(f"{where}: has {len(cells)} fields, but the header {width}; quote captions with commas")
    return cells


def _check_references(path: Path) -> None:
    """Results in the place of references are worth a sentence of their own."""
    if path.suffix.lower() == ".json" and paths.is_file(path):
        head = peek(path)[0]
        if head.lstrip().startswith("[") and '"image_id"' in head and '"caption"' in head:
            raise CaptionkitError(f"{path}: these are results, not references; name the references first")


def _plain(known: Any) -> Any:
    """An id out of numpy or pandas as a plain number."""
    return known.item() if hasattr(known, "item") else known
