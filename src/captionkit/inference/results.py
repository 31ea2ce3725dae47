"""Caption files: COCO results JSON, JSON lines, CSV.

The file is rewritten in full from time to time, atomically, so the version on disk is always readable. An earlier file
is kept until there is a caption to replace it.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from captionkit.data.layouts.caption_set import id_of_file
from captionkit.errors import CaptionkitError
from captionkit.utils import atomic_write, output_checks

LOG = logging.getLogger(__name__)

Record = Mapping[str, Any]

_EVERY = 20.0  # seconds between writes


def image_ids(paths: Sequence[str]) -> list[int | str]:
    """Return COCO image ids from file names: 000000000042.jpg is 42, dog.jpg is "dog"; the whole path if names repeat.

    Two paths never share an id, not even as text: if a path equals another's id, all ids are paths.
    """
    ids = [id_of_file(path) for path in paths]
    counts = Counter(str(known) for known in ids)
    if len(counts) == len(ids):
        return ids
    mixed = [path if counts[str(known)] > 1 else known for known, path in zip(ids, paths, strict=True)]
    return mixed if len(set(map(str, mixed))) == len(set(paths)) else list(paths)


def _coco(records: Sequence[Record]) -> str:
    good = _each_once(record for record in records if "captions" in record)
    ids = [record["image_id"] for record in good if "image_id" in record]
    ids = ids or image_ids([record["path"] for record in good])
    rows = [
        json.dumps({"image_id": known, "caption": record["captions"][0]["text"], **_review(record)}, ensure_ascii=False)
        for known, record in zip(ids, good, strict=True)
    ]
    return "[" + ",\n".join(rows) + "]\n"


def _each_once(records: Iterable[Record]) -> list[Record]:
    """Return the first record of each image: one given twice, as a.jpg and ./a.jpg, has one result."""
    first: dict[object, Record] = {}
    for record in records:
        first.setdefault(record.get("image_id", os.path.abspath(record["path"])), record)  # noqa: PTH100 - links stay
    return list(first.values())


def _review(record: Record) -> dict[str, bool]:
    """Return the review flag of the caption, if it was requested. Readers of COCO results ignore it."""
    return {"review": record["review"]} if "review" in record else {}


def _json_lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _csv(records: Sequence[Record]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    review = ["review"] if any("review" in record for record in records) else []
    writer.writerow(["path", "rank", "caption", "log_prob", "confidence", "error", *review])
    for record in records:
        for rank, caption in enumerate(record.get("captions", ()), 1):
            marked = [str(caption["review"]).lower()] if review else []
            told = [caption["text"], caption["log_prob"], caption["confidence"], ""]
            writer.writerow([record["path"], rank, *told, *marked])
        if "error" in record:
            writer.writerow([record["path"], "", "", "", "", record["error"], *("" for _ in review)])
    return buffer.getvalue()


_FORMATS: dict[str, Callable[[Sequence[Record]], str]] = {".json": _coco, ".jsonl": _json_lines, ".csv": _csv}


class ResultsFile:
    """Collects records and keeps a file of them up to date. A context manager; leaving it writes what there is."""

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
        self._format = _FORMATS[path.suffix.lower()]
        self._records: list[Record] = []
        self._outdated = outdated
        self._written = time.monotonic()
        output_checks.check_output_file(path, output_checks.is_captions, inputs=inputs)
        self._once = atomic_write.is_stream(path)  # a stream cannot be rewritten

    def add(self, record: Record) -> None:
        """Add one image's record, in the format of the machine-readable output."""
        self._records.append(record)
        if not self._once and time.monotonic() - self._written > _EVERY and self._captioned:
            self._write()

    @property
    def _captioned(self) -> bool:
        return any("captions" in record for record in self._records)

    def _write(self) -> None:
        atomic_write.write_text(self.path, self._format(self._records))
        for path in self._outdated:
            path.unlink(missing_ok=True)
        self._written = time.monotonic()

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if not self._captioned and (failure or self.path.is_file()):
            if not failure:
                LOG.warning("%s: stays as it was, as nothing was captioned", self.path)
            return
        try:
            self._write()
        except KeyboardInterrupt:
            self._write()  # an interrupt during the write must not lose the results
            raise
