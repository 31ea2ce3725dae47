"""Caption files: COCO results JSON, JSON lines, CSV. Memory does not grow with the number of images.

A file is first written whole, atomically, so an earlier one is kept until there is a caption to replace it. JSON lines
and CSV then grow line by line; a COCO file, whose ids depend on all images, is written again from time to time.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from captionkit.data.layouts.caption_set import id_of_file
from captionkit.errors import CaptionkitError
from captionkit.utils import atomic_write, output_checks

LOG = logging.getLogger(__name__)

Record = Mapping[str, Any]

_EVERY = 20.0  # seconds before the first write, and between those of a COCO file
_SHARE = 5  # times as long as such a write took, at least, until the next


class _Records(Protocol):
    """The records of a run, as the content of a file."""

    #: whether the file grows by what `add` returns
    grows: bool

    def add(self, record: Record) -> bytes:
        """Keep a record, and return what the file grows by. Raises OSError."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """Yield the content of the whole file."""
        ...

    def close(self) -> None:
        """Release what is held on disk."""
        ...


class _Coco:
    """COCO results: the first record of each image that has a caption, in a temporary database.

    An image given twice, as a.jpg and ./a.jpg, has one result. Ids come from file names: 000000000042.jpg is 42,
    dog.jpg is "dog"; the whole path if names repeat. Two paths never share an id, not even as text: if a path equals
    another's id, all ids are paths. Texts are kept as JSON, which holds names that are no Unicode.
    """

    grows = False
    _REPEATED = "SELECT name FROM images GROUP BY name HAVING count(*) > 1"
    _MIXED = f"CASE WHEN name IN ({_REPEATED}) THEN path ELSE %s END"

    def __init__(self, folder: Path) -> None:
        import sqlite3

        self._known = False  # whether the records bring their ids
        self._table = sqlite3.connect("")  # on disk, beyond some megabytes; goes with the process
        self._table.execute(
            "CREATE TABLE images (place INTEGER PRIMARY KEY, key TEXT UNIQUE, path TEXT, id TEXT, name TEXT, rest TEXT)"
        )
        self._table.execute("CREATE INDEX names ON images (name)")

    def add(self, record: Record) -> bytes:
        """See _Records."""
        if "captions" in record:
            path, self._known = record["path"], "image_id" in record
            known = record["image_id"] if self._known else id_of_file(path)
            key = known if self._known else os.path.abspath(path)  # noqa: PTH100 - links stay
            rest = {"caption": record["captions"][0]["text"], **_review(record)}
            row = (json.dumps(key), json.dumps(path), json.dumps(known), json.dumps(str(known)), json.dumps(rest))
            self._table.execute("INSERT OR IGNORE INTO images (key, path, id, name, rest) VALUES (?, ?, ?, ?, ?)", row)
        return b""

    def chunks(self) -> Iterator[bytes]:
        """See _Records."""
        before = "["
        for known, rest in self._table.execute(f"SELECT {self._ids()}, rest FROM images ORDER BY place"):
            row = {"image_id": json.loads(known), **json.loads(rest)}
            yield _encoded(before + json.dumps(row, ensure_ascii=False))
            before = ",\n"
        yield b"[]\n" if before == "[" else b"]\n"

    def _ids(self) -> str:
        """Return the expression that gives an image's id."""
        if self._known or not self._count(f"SELECT count(*) FROM ({self._REPEATED})"):
            return "id"
        texts = self._count(f"SELECT count(DISTINCT {self._MIXED % 'name'}) FROM images")
        return self._MIXED % "id" if texts == self._count("SELECT count(DISTINCT path) FROM images") else "path"

    def _count(self, question: str) -> int:
        return int(self._table.execute(question).fetchone()[0])

    def close(self) -> None:
        """See _Records."""
        self._table.close()


class _Lines:
    """A record a line. They are kept in a file without a name, on the disk that the output goes to."""

    grows = True

    def __init__(self, folder: Path) -> None:
        try:
            self._file: BinaryIO = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError:  # the folder is not there yet, or takes no files
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._size = 0

    def add(self, record: Record) -> bytes:
        """See _Records."""
        self._size = _append(self._file, self._size, json.dumps(record).encode("ascii") + b"\n")
        return self._row(record)

    def chunks(self) -> Iterator[bytes]:
        """See _Records."""
        self._file.seek(0)
        try:
            with open(self._file.fileno(), "rb", closefd=False) as kept:
                for line in kept:
                    yield self._row(json.loads(line))
        finally:
            self._file.seek(self._size)

    def _row(self, record: Record) -> bytes:
        return _encoded(json.dumps(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """See _Records."""
        self._file.close()


class _Csv(_Lines):
    """A line for each caption, and for each image without one; whether it is marked for review, if that was asked."""

    _review: bool | None = None  # known from the first caption on

    def add(self, record: Record) -> bytes:
        """See _Records."""
        if self._review is None and "captions" in record:
            self._review = "review" in record
        return super().add(record)

    def chunks(self) -> Iterator[bytes]:
        """See _Records."""
        review = ["review"] if self._review else []
        yield _csv_rows([["path", "rank", "caption", "log_prob", "confidence", "error", *review]])
        yield from super().chunks()

    def _row(self, record: Record) -> bytes:
        rows = []
        for rank, caption in enumerate(record.get("captions", ()), 1):
            marked = [str(caption["review"]).lower()] if self._review else []
            values = [caption["text"], caption["log_prob"], caption["confidence"], ""]
            rows.append([record["path"], rank, *values, *marked])
        if "error" in record:
            rows.append([record["path"], "", "", "", "", record["error"], *([""] if self._review else [])])
        return _csv_rows(rows)


def _csv_rows(rows: Sequence[Sequence[object]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return _encoded(buffer.getvalue())


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _review(record: Record) -> dict[str, bool]:
    """Return the review flag of the caption, if it was requested. Readers of COCO results ignore it."""
    return {"review": record["review"]} if "review" in record else {}


def _append(file: BinaryIO, size: int, content: bytes) -> int:
    """Append to a file without a buffer, of `size` bytes; return its size. What does not fit leaves it as it was."""
    left = memoryview(content)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        with suppress(OSError):
            file.truncate(size)
            file.seek(size)
        raise
    return size + len(content)


_FORMATS: dict[str, type[_Coco | _Lines]] = {".json": _Coco, ".jsonl": _Lines, ".csv": _Csv}


class ResultsFile:
    """Takes records and keeps a file of them up to date. A context manager; leaving it writes what there is."""

    def __init__(
        self, path: Path, *, inputs: Iterable[str | os.PathLike[str]] = (), outdated: Sequence[Path] = ()
    ) -> None:
        """Raise CaptionkitError, before any work, if the file cannot or must not be written (`check_output_file`).

        Args:
            path: the file.
            inputs: the paths that the run reads.
            outdated: files that belong to the earlier version: removed as soon as it is replaced.
        """
        if path.suffix.lower() not in _FORMATS:
            raise CaptionkitError(f"{path}: unknown kind of results file; end its name in {', '.join(_FORMATS)}")
        self.path = path
        self._outdated = outdated
        output_checks.check_output_file(path, output_checks.is_captions, inputs=inputs)
        self._once = atomic_write.is_stream(path)  # a stream cannot be rewritten
        self._records: _Records = _FORMATS[path.suffix.lower()](path.parent)
        self._captioned = False
        self._due = time.monotonic() + _EVERY
        #: the file itself, once it grows, and its size in bytes
        self._file: BinaryIO | None = None
        self._size = 0

    def add(self, record: Record) -> None:
        """Add one image's record, in the format of the machine-readable output. Raises CaptionkitError."""
        try:
            row = self._records.add(record)
            self._captioned = self._captioned or "captions" in record
            if self._file:
                self._size = _append(self._file, self._size, row)
        except OSError as error:
            raise atomic_write.cannot_write(self.path, error) from None
        if not self._once and not self._file and self._captioned and time.monotonic() > self._due:
            self._write()

    def _write(self) -> None:
        start = time.monotonic()
        atomic_write.write_chunks(self.path, self._records.chunks)
        for path in self._outdated:
            path.unlink(missing_ok=True)
        now = time.monotonic()
        self._due = now + max(_EVERY, _SHARE * (now - start))
        if self._records.grows and not self._once:
            with suppress(OSError):  # a file that cannot be opened again is rewritten at the end
                self._file = self.path.open("ab", buffering=0)
                self._size = os.fstat(self._file.fileno()).st_size

    def _is_whole(self) -> bool:
        """Return whether the file has grown to its end, and nobody has touched it meanwhile."""
        if not self._file:
            return False
        try:
            ours, there = os.fstat(self._file.fileno()), self.path.stat()
            os.fsync(self._file.fileno())
        except OSError:
            return False
        return os.path.samestat(ours, there) and there.st_size == self._size

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        try:
            self._finish(failure)
        finally:
            self._records.close()
            if self._file:
                self._file.close()

    def _finish(self, failure: object) -> None:
        if not self._captioned and (failure or self.path.is_file()):
            if not failure:
                LOG.warning("%s: stays as it was, as nothing was captioned", self.path)
            return
        if self._is_whole():
            return
        try:
            self._write()
        except KeyboardInterrupt:
            self._write()  # an interrupt during the write must not lose the results
            raise
