"""Candidates and references from whatever holds them: dictionaries, lists, caption sets, files."""

from __future__ import annotations

import csv
import io
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from captionkit.datasets import CaptionSet, Dataset, Problem, stated_captions
from captionkit.datasets.core import is_id, normalise_split
from captionkit.datasets.reading import read_json, read_json_lines, read_text
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


Candidates = Mapping[Id, str] | Sequence[Mapping[str, Any]] | str | os.PathLike[str]
References = Mapping[Id, Sequence[str]] | CaptionSet | Dataset | Wrote | str | os.PathLike[str]


def read_candidates(source: Candidates) -> Said:
    """One caption an image, from {id: caption}, COCO results, or a .json, .jsonl, .csv or .tsv file of them.

    Raises CaptionkitError where ids are missing or stand twice.
    """
    if isinstance(source, Mapping):
        return Said({known: _one(caption, known, "candidates") for known, caption in source.items()})
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
        return Wrote([Written(known, str(known), _several(some, known), "") for known, some in source.items()])
    if isinstance(source, (CaptionSet, Dataset)):
        parts = source.values() if isinstance(source, Dataset) else [source]
        return Wrote([Written(e.id, e.name, e.captions, part.split) for part in parts for e in part])
    if not isinstance(source, (str, os.PathLike)):
        raise CaptionkitError(
            f"references: {reprlib.repr(source)} has no image ids; give {{id: [caption, ...]}}, a dataset or its path"
        )
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
        if not isinstance(row, Mapping) or not is_id(row.get("image_id")) or "caption" not in row:
            raise CaptionkitError(f'{origin}: entry {place} needs an "image_id" and a "caption"; give {_SHAPE}')
        yield row["image_id"], _one(row["caption"], row["image_id"], origin), f"entry {place}"


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
    if path.suffix.lower() not in readers:
        raise DatasetError(f"{path}: unknown kind of results file; its name must end in {', '.join(readers)}")
    try:
        yield from readers[path.suffix.lower()](path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check its name and permissions") from None


def _json(path: Path) -> Iterator[tuple[Id, str, str]]:
    content = read_json(path, pairs_hook=lambda pairs: _object(pairs, path))
    if isinstance(content, dict) and "annotations" not in content:
        return ((known, _one(caption, known, str(path)), "twice") for known, caption in content.items())
    if isinstance(content, dict):
        raise CaptionkitError(f"{path}: these are annotations, not results; give the references first, then {_SHAPE}")
    return _results(content, str(path))


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
        if isinstance(row, dict) and isinstance(row.get("path"), str) and ("captions" in row or "error" in row):
            best = (row.get("captions") or [None])[0]
            if isinstance(best, dict):
                yield row["path"], _one(best.get("text"), row["path"], str(path)), where
        else:
            yield from ((known, caption, where) for known, caption, _ in _results([row], f"{path}, {where}"))


def _table(path: Path) -> Iterator[tuple[Id, str, str]]:
    """A table with a header; of several ranked captions of a picture (`captionkit caption --output`), the first."""
    text = read_text(path)
    header = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",", strict=True)
    names = {name.strip().casefold(): name for name in reader.fieldnames or () if name}
    image = next((names[name] for name in _ID_COLUMNS if name in names), None)
    caption = next((names[name] for name in CAPTION_COLUMNS if name in names), None)
    if image is None or caption is None:
        raise CaptionkitError(f"{path}, line 1: the header names no image_id (or image) or no caption column")
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if not row[image]:
                raise CaptionkitError(f"{path}, {where}: names no image; give each caption its image")
            if row.get("rank") in (None, "1") and not row.get("error"):
                yield row[image].strip(), row[caption] or "", where
    except csv.Error as error:
        raise CaptionkitError(f"{path}, line {reader.line_num + 1}: not valid CSV ({error}); mend the quotes") from None
