"""Checks before writing: never overwrite an input of the run, nor a file that captionkit did not write.

A command calls these before it starts work. A file may be replaced if it is recognisably an earlier output: images and
pages that captionkit draws carry its mark, and results are recognised by their structure. An empty file may always be
replaced.
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
from captionkit.utils.atomic_write import MARK, SOFTWARE, cannot_write, is_stream

#: returns whether captionkit wrote a file, from its content; may raise OSError, or a parser's error for other content
Proof = Callable[[Path], bool]

_HEAD = 1 << 16  # bytes of a file searched for the mark
_MOST = 1 << 26  # largest JSON file that is examined, in bytes, and longest line of a text, in characters
_GENERATOR = re.compile(rf'<meta name="generator" content="{MARK}"')
#: pages written by versions before the mark
_EARLIER_PAGE = re.compile(
    "<title>(What captionkit sees|Captions, from the best to the worst)</title>|<footer>Written by captionkit "
)
_SCORE = re.compile(r"-?\d+\.\d{6}|-?inf|nan")  # the format of per-image scores
_ARRAYS = {f"{name}.npy" for name in ("words", "caption", "attention", "region", "photo")}
_CAPTIONS = ["path", "rank", "caption", "log_prob", "confidence", "error"]


def check_output_file(path: Path, proof: Proof, *, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse, before any work, a file that cannot be written or must not be replaced.

    Args:
        path: the file to write; pipes and devices are allowed.
        proof: returns whether an existing file is an earlier output.
        inputs: the paths that the run reads.

    Raises:
        CaptionkitError: `path` is a folder or a disk, an input of the run, a file not written by captionkit, or not
            writable.
    """
    try:
        if is_stream(path):
            if path.is_block_device():
                raise CaptionkitError(f"{path}: is a disk; name a file")
            return
        if path.is_dir():
            raise CaptionkitError(f"{path}: is a folder; name a file")
        if FileSet(inputs).holds(path):
            raise CaptionkitError(f"{path}: is an input of this run; name another file to write")
        if not replaceable(path, proof):
            raise CaptionkitError(
                f"{path}: is there already, and not written by captionkit; move it away or name another file"
            )
        _check_rights(path)
    except OSError as error:
        raise cannot_write(path, error) from None


def check_output_folder(path: Path, *, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse, before any work, an output folder that is a file, an input of the run, or not writable.

    Raises CaptionkitError. The folder's contents are not checked.
    """
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(path.stat().st_mode):
                raise CaptionkitError(f"{path}: is a file where a folder is wanted; name another place")
        if FileSet(inputs).holds(path):
            raise CaptionkitError(f"{path}: is an input of this run; name another folder to write to")
        _check_rights(path)
    except OSError as error:
        raise cannot_write(path, error) from None


class FileSet:
    """A set of files and folders by identity (device and inode), independent of links and spellings of their paths."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]] = ()) -> None:
        self._known: set[tuple[int, int]] = set()
        for path in paths:
            self.add(path)

    def add(self, path: str | os.PathLike[str]) -> None:
        """Add whatever exists at `path` now; do nothing if nothing does."""
        if (found := _identity(path)) is not None:
            self._known.add(found)

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Return whether `path` leads to a file or folder in the set."""
        return bool(self._known) and _identity(path) in self._known


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def replaceable(path: Path, proof: Proof) -> bool:
    """Return whether `path` is missing, empty, or recognised by `proof`.

    Raises OSError if that cannot be determined.
    """
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
    """Raise OSError if the permissions say that `path` cannot be written."""
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
    """Return whether captionkit wrote this HTML page."""
    with path.open("rb") as file:
        head = file.read(_HEAD).decode("utf-8", "replace")
        file.seek(max(0, path.stat().st_size - _HEAD))
        tail = file.read(_HEAD).decode("utf-8", "replace")
    return bool(_GENERATOR.search(head) or _EARLIER_PAGE.search(head) or _EARLIER_PAGE.search(tail))


def is_report(path: Path) -> bool:
    """Return whether captionkit wrote this report, HTML or Markdown."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _HEAD))
        last = file.read(_HEAD).decode("utf-8", "replace").rstrip().rpartition("\n")[2]
    return last.startswith("Written by captionkit ") or is_page(path)


def is_drawing(path: Path) -> bool:
    """Return whether captionkit drew this image or wrote this archive of attention arrays."""
    with path.open("rb") as file:
        try:
            return _is_arrays(file) if path.suffix.lower() == ".npz" else _is_marked(file)
        except Exception:  # Pillow and zipfile raise many kinds of error for a damaged file
            return False


def _is_arrays(file: IO[bytes]) -> bool:
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist()) == _ARRAYS


def _is_marked(file: IO[bytes]) -> bool:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(file)  # reads the header only
        comment = image.info.get("comment", b"")
        marks = (image.info.get("Software"), comment, image.getexif().get(SOFTWARE))
    return MARK in marks or MARK.encode() in marks


def is_captions(path: Path) -> bool:
    """Return whether this is a caption file written by captionkit: COCO results, JSON lines or CSV, by its suffix."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return all(_is_record(json.loads(line)) for line in _lines(path))
    if kind == ".csv":
        header = next(csv.reader(_lines(path)), [])  # one more column if captions were marked for review
        return header in (_CAPTIONS, [*_CAPTIONS, "review"])
    results = _json(path)
    if not isinstance(results, list) or not all(map(_is_result, results)):
        return False
    return len({str(result["image_id"]) for result in results}) == len(results)  # reference files repeat image ids


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
    """Return whether this is a CSV of per-image scores."""
    rows = csv.reader(_lines(path))
    header, first = next(rows, []), next(rows, None)
    if header[:2] != ["image_id", "caption"] or len(header) < 3:
        return False
    return first is None or (len(first) == len(header) and bool(_SCORE.fullmatch(first[2])))


def is_scores(path: Path) -> bool:
    """Return whether this is a scores file written by an evaluation."""
    scores = _json(path)
    return isinstance(scores, dict) and scores.keys() >= {"images", "intervals", "command", "model", "data", "decoding"}


def is_journal(path: Path) -> bool:
    """Return whether this is the journal of a sweep: lines that record Optuna's operations."""
    first = json.loads(next(_lines(path), ""))
    return isinstance(first, dict) and first.keys() >= {"op_code", "worker_id"}


def _json(path: Path) -> Any:
    """Return the value in a JSON file. Raises ValueError if it is invalid or too large to examine."""
    if path.stat().st_size > _MOST:
        raise ValueError("too large")
    return json.loads(path.read_bytes())


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file. Raises ValueError if a line is too long or is not UTF-8."""
    with path.open(encoding="utf-8") as file:
        while line := file.readline(_MOST):
            if len(line) == _MOST:
                raise ValueError("a line is too long")
            yield line
