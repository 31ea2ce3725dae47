"""Reading candidates and references from dictionaries, lists, caption sets and files."""

from __future__ import annotations

import csv
import io
import os
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from captionkit.data.layouts import CaptionSet, Dataset, Problem, has_captions_by_image, stated_captions
from captionkit.data.layouts.caption_set import is_id, normalize_split, whole
from captionkit.data.layouts.caption_values import (
    CAPTION_COLUMNS,
    checked_captions,
    holds_captions,
    is_missing,
    shown,
    texts_of,
)
from captionkit.data.layouts.csv import IMAGE_COLUMNS, column_names, without_hint
from captionkit.data.layouts.reading import first_line, peek, read_json, read_json_lines, read_text
from captionkit.data.layouts.unsupported import way_out
from captionkit.errors import CaptionkitError, DatasetError
from captionkit.utils import paths

Id = int | str

_SHAPE = '{id: caption} or [{"image_id", "caption"}, ...]'
# Columns that may identify a candidate's image, the most reliable first: a number can equal another image's by chance,
# and an "id" can be the row's.
_ID_COLUMNS = (*IMAGE_COLUMNS, "image_id", "id")
# Problems of a folder of candidates, any of which would leave an image out of the scores.
_FATAL = ("malformed caption", "malformed entry", "unreadable folder")


class ImageReferences(NamedTuple):
    """The references of an image. `name` is its file's name, or its id if no file is named."""

    id: Id
    name: str
    captions: tuple[str, ...]
    split: str


@dataclass
class CandidateSet:
    """Candidates by image id, and their name in messages.

    column: the column of the ids, if more than one column could be ids; `others` are the readings by the other columns.
    fault: why these ids cannot be used for scoring, if so.
    """

    captions: dict[Id, str]
    origin: str = "candidates"
    column: str = ""
    fault: str = ""
    others: list[CandidateSet] = field(default_factory=list)


@dataclass
class ReferenceSet:
    """References, their name in messages, and the problems found while reading them."""

    images: list[ImageReferences]
    origin: str = "references"
    problems: list[str] = field(default_factory=list)


Candidates = CandidateSet | Mapping[Id, str] | Sequence[Mapping[str, Any]] | str | os.PathLike[str]
References = Mapping[Id, Sequence[str]] | CaptionSet | Dataset | ReferenceSet | str | os.PathLike[str]


def read_candidates(source: Candidates) -> CandidateSet:
    """Read one caption per image from {id: caption}, COCO results, or a .json, .jsonl, .csv or .tsv file of them.

    A folder may have a text file for each image, beside it or not, or metadata.jsonl. Raises CaptionkitError if ids are
    missing or repeated.
    """
    if isinstance(source, CandidateSet):
        return source
    if isinstance(source, Mapping):
        return CandidateSet({_plain(known): _one(caption, known, "candidates") for known, caption in source.items()})
    if isinstance(source, (str, os.PathLike)):
        return _said(list(_rows(Path(source))), str(source))
    return _said(list(_results(source, "candidates")), "candidates")


def read_references(source: References) -> ReferenceSet:
    """Read the captions of each image from {id: captions}, a caption set or dataset, or its file or folder.

    The images need not exist. Raises CaptionkitError.
    """
    if isinstance(source, ReferenceSet):
        return source
    if isinstance(source, Mapping) and not isinstance(source, Dataset):
        plain = {_plain(known): some for known, some in source.items()}
        return ReferenceSet(
            [ImageReferences(known, str(known), _several(some, known), "") for known, some in plain.items()]
        )
    if isinstance(source, (CaptionSet, Dataset)):
        parts = source.values() if isinstance(source, Dataset) else [source]
        return ReferenceSet([ImageReferences(e.id, e.name, e.captions, part.split) for part in parts for e in part])
    if not isinstance(source, (str, os.PathLike)):
        raise CaptionkitError(
            f"references: {reprlib.repr(source)} has no image ids; give {{id: [caption, ...]}}, a dataset or its path"
        )
    _check_references(Path(source))
    wrote = ReferenceSet([], str(source))
    for stated in stated_captions(source):
        if isinstance(stated, Problem):
            wrote.problems.append(f"{stated.kind}: {stated.where} ({stated.detail})")
            continue
        good, problems = checked_captions(stated.captions, stated.file_name, stated.source)
        wrote.problems.extend(f"{problem.kind}: {problem.where} ({problem.detail})" for problem in problems)
        wrote.images.append(ImageReferences(stated.id, stated.file_name, good, normalize_split(stated.split)))
    return wrote


def _several(captions: object, known: Id) -> tuple[str, ...]:
    if isinstance(captions, str):
        captions = (captions,)
    listed = tuple(captions) if isinstance(captions, Iterable) else (None,)
    if not all(isinstance(text, str) for text in listed):
        raise CaptionkitError(f"references: those of image {known!r} are not captions; give {{id: [caption, ...]}}")
    return tuple(text for text in listed if text.strip())


def _one(caption: object, known: object, origin: str) -> str:
    """Return the single text of a candidate: itself, or the one in a list or object, as pycocoevalcap accepts."""
    given = list(caption) if isinstance(caption, (list, tuple)) else [caption]
    try:
        texts = [text for one in given for text in texts_of(one)]
    except ValueError:
        raise CaptionkitError(f"{origin}: image {known!r} has {shown(caption)}, a list that cannot be read") from None
    if len(texts) != 1 or not isinstance(texts[0], str):
        several = "several captions" if len(texts) > 1 else "no caption"
        raise CaptionkitError(f"{origin}: image {known!r} has {several}; one text for each image is scored")
    return texts[0]


class _Row(NamedTuple):
    """One candidate: the possible ids of its image, by column, and its location."""

    ids: dict[str, Id]
    caption: str
    where: str


def _said(rows: Sequence[_Row], origin: str) -> CandidateSet:
    """Return the candidates by each possible id column, the likeliest first."""
    there = {column for row in rows for column in row.ids}
    readings = [_by(column, rows, origin) for column in _ID_COLUMNS if column in there]
    if not readings:
        return CandidateSet({}, origin)
    if len(readings) == 1 and readings[0].fault:
        raise CaptionkitError(readings[0].fault)
    readings[0].others = readings[1:]
    return readings[0]


def _by(column: str, rows: Sequence[_Row], origin: str) -> CandidateSet:
    said = CandidateSet({}, origin, column)
    seen: dict[str, _Row] = {}
    for row in rows:
        known = row.ids.get(column)
        if known is None:
            said.fault = said.fault or f"{origin}, {row.where}: names no image under {column!r}; give each its image"
            continue
        first = seen.setdefault(str(known), row)
        if first is row:
            said.captions[known] = row.caption
        elif first.caption != row.caption:  # an exact duplicate is harmless
            twice = f"{origin}: image {known!r} has two captions ({first.where} and {row.where}); keep one"
            said.fault = said.fault or twice
    return said


def _results(rows: object, origin: str, where: str = "entry {}") -> Iterator[_Row]:
    """Yield each entry of COCO results, or of a similar list."""
    if not isinstance(rows, Sequence) or isinstance(rows, (str, bytes)):
        raise CaptionkitError(f"{origin}: not captions by image; give {_SHAPE}")
    for place, row in enumerate(rows):
        if isinstance(row, str):
            raise CaptionkitError(f"{origin}: a list of captions has no image ids; give {_SHAPE}")
        entry = row if isinstance(row, Mapping) else {}
        ids = {name: known for name in _ID_COLUMNS if is_id(known := _plain(entry.get(name)))}
        column = next((name for name in CAPTION_COLUMNS if name in entry), None)
        if not ids or column is None:
            raise CaptionkitError(f'{origin}: entry {place} needs an "image_id" and a "caption"; give {_SHAPE}')
        yield _Row(ids, _one(entry[column], next(iter(ids.values())), origin), where.format(place))


def _rows(path: Path) -> Iterator[_Row]:
    """Yield each caption in a file or folder."""
    readers = {".json": _json, ".jsonl": _json_lines, ".csv": _table, ".tsv": _table}
    if paths.is_folder(path, DatasetError):
        yield from _folder(path)
        return
    if path.suffix.lower() not in readers:
        raise DatasetError(
            f"{path}: unknown kind of results file; its name must end in {', '.join(readers)}{way_out(path, '; ')}"
        )
    try:
        yield from readers[path.suffix.lower()](path)
    except OSError as error:
        raise DatasetError(paths.unreadable(path, error)) from None


def _folder(path: Path) -> Iterator[_Row]:
    """Yield the caption of each image that has one in a file of its own, or in metadata.jsonl."""
    found = False
    for stated in stated_captions(path) if has_captions_by_image(path) else ():
        if isinstance(stated, Problem):
            if stated.kind in _FATAL:
                reason = stated.detail.removesuffix("; left out")
                raise DatasetError(f"{path / stated.where}: {stated.kind} ({reason}); correct it")
        elif stated.captions:
            found = True
            yield _Row({"file_name": stated.id}, _one(stated.captions, stated.id, str(path)), stated.file_name)
    if not found:
        result = path / "results.json"
        raise DatasetError(
            f"{path}: is a folder; name the results file in it, such as {result}, or a folder of captions in text files"
        )


def _json(path: Path) -> Iterator[_Row]:
    content = read_json(path, pairs_hook=lambda pairs: _object(pairs, path))
    if not isinstance(content, dict):
        return _results(content, str(path))
    if (listed := _wrapped(content)) is not None and "images" not in content:
        return _results(listed, str(path))
    if {"annotations", "images"} & set(content):
        raise CaptionkitError(f"{path}: these are references, not results; name the references first, then {_SHAPE}")
    if {"image_id", "caption"} & set(content) or not all(map(holds_captions, content.values())):
        raise CaptionkitError(f"{path}: not captions by image; give {_SHAPE}")
    return (
        _Row({"image_id": whole(known)}, _one(caption, known, str(path)), f"the key {known!r}")
        for known, caption in content.items()
    )


def _wrapped(content: dict[str, Any]) -> list[Any] | None:
    """Return the results in an object, {"results": [{"image_id", "caption"}]}: its only list of entries with ids.

    Captions by image, {"1": [{"caption": ...}]}, are not such a list.
    """
    lists = [value for value in content.values() if isinstance(value, list) and value and _are_results(value)]
    if len(lists) != 1:
        return None
    ids = [str(entry.get("image_id")) for entry in lists[0] if isinstance(entry, dict)]
    return None if "annotations" in content and len(set(ids)) < len(ids) else lists[0]  # several per image: references


def _are_results(entries: list[Any]) -> bool:
    """Return whether entries name their images.

    A single caption of an image may have its own "id"; several are not results.
    """
    first = entries[0]
    if not isinstance(first, dict):
        return False
    named = any(is_id(_plain(first.get(name))) for name in _ID_COLUMNS if name != "id" or len(entries) > 1)
    return named and any(name in first for name in CAPTION_COLUMNS)


def _object(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):  # json.loads would silently ignore it
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise CaptionkitError(f"{path}: {twice!r} stands twice in one object; keep one")
    return made


def _json_lines(path: Path) -> Iterator[_Row]:
    """Read COCO results, one per line, or the output of `captionkit caption --json`; failed images are skipped."""
    for number, row in read_json_lines(path):
        where = f"line {number}"
        if not (isinstance(row, dict) and isinstance(row.get("path"), str) and {"captions", "error"} & set(row)):
            yield from _results([row], f"{path}, {where}", where)
        elif captions := row.get("captions"):
            if not isinstance(captions, list) or not isinstance(captions[0], dict):
                raise CaptionkitError(f'{path}, {where}: its "captions" are not a list of {{"text", ...}}; rewrite it')
            yield _Row({"path": row["path"]}, _one(captions[0].get("text"), row["path"], str(path)), where)


def _table(path: Path) -> Iterator[_Row]:
    """Read a table with a header; of several ranked captions of an image, use the first.

    `captionkit caption --output` writes such a table.
    """
    text = without_hint(read_text(path))
    columns, delimiter = _columns(first_line(text), path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if line > 1 and any(cell.strip() for cell in cells):
                where = f"line {line}"
                row = dict(zip(columns, _fitted(cells, columns, delimiter, f"{path}, {where}"), strict=True))
                named = {name: whole(row[name].strip()) for name in _ID_COLUMNS if row.get(name, "").strip()}
                ids = {name: known for name, known in named.items() if not is_missing(known)}
                if not ids:
                    raise CaptionkitError(f"{path}, {where}: names no image; give each caption its image")
                if whole(row.get("rank", "1").strip()) == "1" and not row.get("error"):
                    yield _Row(ids, _one(row["caption"], next(iter(ids.values())), f"{path}, {where}"), where)
            line = reader.line_num + 1
    except csv.Error as error:
        raise CaptionkitError(f"{path}, line {line}: not valid CSV ({error}); fix the quotes") from None


def _columns(header: str, path: Path) -> tuple[list[str], str]:
    """Return the columns and the separator: the caption column is called "caption", repeated names get a number."""
    for delimiter in ",\t;|":
        names = column_names(header, delimiter)
        caption = next((names.index(name) for name in CAPTION_COLUMNS if name in names), None)
        if caption is not None and any(name in names for name in _ID_COLUMNS):
            firsts = [name if names.index(name) == place else f"{name} {place}" for place, name in enumerate(names)]
            return ["caption" if place == caption else name for place, name in enumerate(firsts)], delimiter
    raise CaptionkitError(f"{path}, line 1: the header names no image_id (or image) or no caption column")


def _fitted(cells: list[str], columns: list[str], delimiter: str, where: str) -> list[str]:
    """Return a row as wide as the header; extra fields after a caption in the last column are its unquoted commas."""
    width = len(columns)
    if len(cells) > width and columns[-1] == "caption":
        cells = [*cells[: width - 1], delimiter.join(cells[width - 1 :])]
    if len(cells) != width:
        raise CaptionkitError(f"{where}: has {len(cells)} fields, but the header {width}; quote captions with commas")
    return cells


def _check_references(path: Path) -> None:
    """Raise CaptionkitError, with a specific message, if results are given in place of references.

    Results are a list with one caption per image and no image files; several captions per image are references.
    """
    if path.suffix.lower() != ".json" or not paths.is_file(path) or not peek(path)[0].lstrip().startswith("["):
        return
    content = read_json(path)
    entries = [row for row in content if isinstance(row, dict) and is_id(_plain(row.get("image_id")))]
    single = all(isinstance(row.get("caption"), str) and not set(IMAGE_COLUMNS) & set(row) for row in entries)
    if entries and single and len({str(row["image_id"]) for row in entries}) == len(entries):
        raise CaptionkitError(f"{path}: these are results, not references; name the references first")


def _plain(known: Any) -> Any:
    """Convert a numpy or pandas id to a plain value, and an integral float to an integer."""
    return whole(known.item() if hasattr(known, "item") else known)
