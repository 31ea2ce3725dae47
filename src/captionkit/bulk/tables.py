"""Parquet tables of images (extra: bulk): a column of their bytes, or of their paths or URLs.

Listing reads nothing but a file's footer. A worker reads rows in order, a few at a time, so that a group of a million
rows does not have to fit in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionkit.bulk.items import Item, Place, Remote, Url
from captionkit.bulk.remote import file_system, is_remote, is_url, persistently
from captionkit.bulk.tree import is_within
from captionkit.data.layouts.parquet import image_columns
from captionkit.errors import CaptionkitError, ImageError, one_line
from captionkit.utils import paths

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

_ROWS = 32  # read at once
_KEPT = 4  # such runs of rows are kept for readers that are a little behind


@dataclass(frozen=True, slots=True)
class ParquetRow:
    """Row `index` of a Parquet file, counted from 0."""

    table: str | Remote
    index: int
    column: str

    def locate(self) -> Place:
        """Return where the image is. Raises ImageError if the row has none."""
        name = f"{_address(self.table)}#{self.index}"
        try:
            value = _reader(self.table, self.column).row(self.index)
        except CaptionkitError as error:
            raise ImageError(f"{name}: {error}") from None
        except Exception as error:  # pyarrow has many kinds
            raise ImageError(f"{name}: cannot be read ({one_line(error)}); check the file") from None
        return place_of(value, name, self.table)


def place_of(value: Any, name: str, table: str | Remote | None) -> Place:
    """Return where the image is that a cell of a table holds: bytes, a path or URL, or both in one, as datasets have.

    A path is relative to the table's folder, and leads to nowhere outside of it. Raises ImageError.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        kind = "null" if value is None else "empty" if not value else type(value).__name__
        raise ImageError(f"{name}: the row has no image ({kind}); fill it in or leave the row out")
    if is_url(value):
        return Url(value)
    if is_remote(value):
        return Remote(value)
    if isinstance(table, Remote):
        above = table.address.rpartition("/")[0]
        if value.startswith("/") or ".." in value.split("/"):
            raise ImageError(f"{name}: {value!a} leads out of the table's folder; move the table or the image")
        return Remote(f"{above}/{value}")
    folder = Path(table).parent if table else Path()
    if not is_within(folder / value, folder):
        raise ImageError(f"{name}: {value!a} leads out of the table's folder; move the table or the image")
    return str(folder / value)


def items(table: str | Remote, address: str, identifier: str, column: str | None) -> Iterator[Item]:
    """Yield the rows of a Parquet file, or one item with an error if it cannot be read.

    Raises CaptionkitError if pyarrow is not installed.
    """
    try:
        file = open_table(table)
        chosen = image_column(file.schema_arrow, column)
        rows, size = file.metadata.num_rows, file.metadata.serialized_size
    except CaptionkitError as error:
        yield Item(identifier, address, b"", 0, f"{paths.shown(address)}: {error}")
        return
    stem = identifier.removesuffix(".parquet")
    for index in range(rows):
        row = ParquetRow(table, index, chosen)
        yield Item(f"{identifier}#{index}", f"{address}#{index}", row, size, sidecar=f"{stem}/{index:06d}.txt")


def image_column(schema: pa.Schema, named: str | None) -> str:
    """Return the column of a table that has the images. Raises CaptionkitError, which names the columns."""
    if named is not None:
        if named in schema.names:
            return named
        raise CaptionkitError(f"has no column {named!r}; it has {', '.join(schema.names)}")
    for name in image_columns(schema):
        return name
    raise CaptionkitError(f"has no column of images; name it by --image-column, of {', '.join(schema.names)}")


def open_table(table: str | Remote) -> parquet.ParquetFile:
    """Open a Parquet file. Raises CaptionkitError, without the file's name."""
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise CaptionkitError("pyarrow is not installed; run `pip install 'captionkit[bulk]'`") from None
    try:
        if isinstance(table, str):
            return parquet.ParquetFile(table, memory_map=True)
        system, path = file_system(table.address)
        return parquet.ParquetFile(persistently(lambda: system.open(path, "rb"), table.address))
    except CaptionkitError:
        raise
    except Exception as error:
        raise CaptionkitError(f"cannot be read as Parquet ({one_line(error)}); make or fetch it again") from None


class _Reader:
    """Reads cells of a column, mostly in order. Thread-safe."""

    def __init__(self, table: str | Remote, column: str) -> None:
        self._file, self._column = open_table(table), column
        self._lock = threading.Lock()
        self._next = 0
        self._runs = self._from(0)
        self._kept: dict[int, list[Any]] = {}

    def row(self, index: int) -> Any:
        with self._lock:
            start = index - index % _ROWS
            if start not in self._kept:
                self._advance(start)
            return self._kept[start][index - start]

    def _advance(self, start: int) -> None:
        """Read on until the run of rows from `start` is there, from the start of its group if it lies behind."""
        group_start = self._group_of(start)
        if start < self._next or group_start > self._next:
            self._next = group_start - group_start % _ROWS
            self._runs = self._from(group_start)
        while self._next <= start:
            self._kept[self._next] = next(self._runs)
            self._next += _ROWS
            if len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]

    def _group_of(self, row: int) -> int:
        """Return the first row of the last group that begins at a whole run, and not after `row`."""
        start = best = 0
        for group in range(self._file.metadata.num_row_groups):
            if start > row:
                break
            if start % _ROWS == 0:
                best = start
            start += self._file.metadata.row_group(group).num_rows
        return best

    def _from(self, row: int) -> Iterator[list[Any]]:
        """Yield the cells of the runs of rows from `row` on, which begins a group."""
        before, groups = 0, []
        for group in range(self._file.metadata.num_row_groups):
            if before >= row:
                groups.append(group)
            before += self._file.metadata.row_group(group).num_rows
        waiting: list[Any] = []
        for batch in self._file.iter_batches(_ROWS, row_groups=groups, columns=[self._column], use_threads=False):
            waiting += batch.column(0).to_pylist()
            while len(waiting) >= _ROWS:
                yield waiting[:_ROWS]
                waiting = waiting[_ROWS:]
        if waiting:
            yield waiting


@lru_cache(2)
def _reader(table: str | Remote, column: str) -> _Reader:
    return _Reader(table, column)


def _address(table: str | Remote) -> str:
    return table.address if isinstance(table, Remote) else table
