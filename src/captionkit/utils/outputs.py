"""The gate for what is written: nothing that a run reads, and nothing that captionkit did not make itself.

A command asks here before its work begins. A file may be replaced where it proves to be an earlier output: images and
pages that captionkit draws carry its mark, results are known by their structure. An empty file holds nothing to lose.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from captionkit.errors import CaptionkitError
from captionkit.utils.files import MARK, SOFTWARE, cannot_write, is_stream

#: tells by a file's content whether captionkit wrote it; may raise OSError, and what a parser raises of other content
Proof = Callable[[Path], bool]

_HEAD = 1 << 16  # bytes of a file in which its mark is looked for
_MOST = 1 << 26  # bytes of a JSON file that is looked through, and characters of a line of one
_GENERATOR = re.compile(rf'<meta name="generator" content="{MARK}"')
#: pages of versions that left no such mark
_EARLIER_PAGE = re.compile(
    "<title>(What captionkit sees|Captions, from the best to the worst)</title>|<footer>Written by captionkit "
)
_SCORE = re.compile(r"-?\d+\.\d{6}|-?inf|nan")  # as scores of each image are written
_ARRAYS = {f"{name}.npy" for name in ("words", "caption", "attention", "region", "photo")}
_CAPTIONS = ["path", "rank", "caption", "log_prob", "confidence", "error"]


def check_file(path: Path, proof: Proof, *, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse, before any work, a file that could not be written or is not ours to replace.

    Args:
        path: what is to be written; pipes and devices may be.
        proof: whether a file that is there is an earlier output.
        inputs: what the run reads.

    Raises:
        CaptionkitError: it is a folder or a disk, one of the inputs, a file that captionkit did not write, or out of
            reach.
    """
    try:
        if is_stream(path):
            if path.is_block_device():
                raise CaptionkitError(f"{path}: is a disk; name a file")
            return
        if path.is_dir():
            raise CaptionkitError(f"{path}: is a folder; name a file")
        if Files(inputs).holds(path):
            raise CaptionkitError(f"{path}: is an input of this run; name another file to write")
        if not replaceable(path, proof):
            raise CaptionkitError(
                f"{path}: is there already, and not written by captionkit; move it away or name another file"
            )
        _check_rights(path)
    except OSError as error:
        raise cannot_write(path, error) from None


def check_folder(path: Path, *, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse, before any work, a folder for outputs that is a file, an input of the run, or could not be written to.

    Raises CaptionkitError. What lies in the folder is not looked at.
    """
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(path.stat().st_mode):
                raise CaptionkitError(f"{path}: is a file where a folder is wanted; name another place")
        if Files(inputs).holds(path):
            raise CaptionkitError(f"{path}: is an input of this run; name another folder to write to")
        _check_rights(path)
    except OSError as error:
        raise cannot_write(path, error) from None


class Files:
    """The real files and folders behind paths, whatever links and spellings lead there."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]] = ()) -> None:
        self._known: set[tuple[int, int]] = set()
        for path in paths:
            self.add(path)

    def add(self, path: str | os.PathLike[str]) -> None:
        """Note what is there now, if anything is."""
        if (found := _identity(path)) is not None:
            self._known.add(found)

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Whether a path leads to something that was noted."""
        return bool(self._known) and _identity(path) in self._known


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def replaceable(path: Path, proof: Proof) -> bool:
    """Whether nothing is there, nothing is in it, or `proof` knows it. Raises OSError where it cannot be told."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    if not stat.S_ISREG(found.st_mode):
        return False
    if not found.st_size:
        return True
    try:
        return proof(path)
    except (ValueError, RecursionError, csv.Error):
        return False


def _check_rights(path: Path) -> None:
    """Raises OSError where `path` could not be written, as far as rights tell."""
    place = Path(os.path.realpath(path))
    if place.exists():
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    with suppress(FileNotFoundError):
        place.lstat()  # raises for a name that is too long
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def is_page(path: Path) -> bool:
    """Whether captionkit wrote this HTML page."""
    with path.open("rb") as file:
        head = file.read(_HEAD).decode("utf-8", "replace")
        file.seek(max(0, path.stat().st_size - _HEAD))
        tail = file.read(_HEAD).decode("utf-8", "replace")
    return bool(_GENERATOR.search(head) or _EARLIER_PAGE.search(head) or _EARLIER_PAGE.search(tail))


def is_report(path: Path) -> bool:
    """Whether captionkit wrote this report, which may be a page or Markdown."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _HEAD))
        last = file.read(_HEAD).decode("utf-8", "replace").rstrip().rpartition("\n")[2]
    return last.startswith("Written by captionkit ") or is_page(path)


def is_drawing(path: Path) -> bool:
    """Whether captionkit drew this image, or wrote these arrays of attention."""
    with path.open("rb") as file:
        try:
            return _is_arrays(file) if path.suffix.lower() == ".npz" else _is_marked(file)
        except Exception:  # what is damaged makes Pillow and zipfile raise errors of many kinds; it is no drawing
            return False


def _is_arrays(file: IO[bytes]) -> bool:
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist()) == _ARRAYS


def _is_marked(file: IO[bytes]) -> bool:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(file)  # reads what comes before the pixels
        comment = image.info.get("comment", b"")
        marks = (image.info.get("Software"), comment, image.getexif().get(SOFTWARE))
    return MARK in marks or MARK.encode() in marks


def is_captions(path: Path) -> bool:
    """Whether this is a file of captions as captionkit writes them: COCO results, JSON lines or CSV, by its name."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return all(_is_record(json.loads(line)) for line in _lines(path))
    if kind == ".csv":
        header = next(csv.reader(_lines(path)), [])  # with a column more where captions were marked for review
        return header in (_CAPTIONS, [*_CAPTIONS, "review"])
    results = _json(path)
    if not isinstance(results, list) or not all(map(_is_result, results)):
        return False
    return len({str(result["image_id"]) for result in results}) == len(results)  # references have several of an image


def _is_result(result: Any) -> bool:
    return isinstance(result, dict) and result.keys() - {"review"} == {"image_id", "caption"}


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or "path" not in record:
        return False
    captions = record.get("captions", () if isinstance(record.get("error"), str) else None)
    return isinstance(captions, (list, tuple)) and all(
        isinstance(caption, dict) and caption.keys() >= {"text", "log_prob", "confidence"} for caption in captions
    )


def is_image_scores(path: Path) -> bool:
    """Whether this is a CSV of the scores of each image."""
    rows = csv.reader(_lines(path))
    header, first = next(rows, []), next(rows, None)
    if header[:2] != ["image_id", "caption"] or len(header) < 3:
        return False
    return first is None or (len(first) == len(header) and bool(_SCORE.fullmatch(first[2])))


def is_scores(path: Path) -> bool:
    """Whether these are the scores that an evaluation wrote."""
    scores = _json(path)
    return isinstance(scores, dict) and scores.keys() >= {"images", "intervals", "command", "model", "data", "decoding"}


def is_journal(path: Path) -> bool:
    """Whether this is the journal of a sweep: lines of what Optuna did."""
    first = json.loads(next(_lines(path), ""))
    return isinstance(first, dict) and first.keys() >= {"op_code", "worker_id"}


def _json(path: Path) -> Any:
    """The value in a JSON file. ValueError where it is none, or too large to look through."""
    if path.stat().st_size > _MOST:
        raise ValueError("too large")
    return json.loads(path.read_bytes())


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text. ValueError where one is too long, or is no UTF-8."""
    with path.open(encoding="utf-8") as file:
        while line := file.readline(_MOST):
            if len(line) == _MOST:
                raise ValueError("a line is too long")
            yield line
