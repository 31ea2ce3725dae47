"""Parts as files: JSON lines, Parquet, text files beside images, tar shards.

A part is written to temporary files, and takes its place once it is whole. The same records give the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Protocol

from captionkit.bulk.items import Item
from captionkit.bulk.records import Record, is_record, to_line
from captionkit.bulk.store import Store, Written
from captionkit.data.images import suffix_of
from captionkit.data.layouts.caption_values import SIDECARS
from captionkit.data.layouts.shards import sample_key
from captionkit.errors import CaptionkitError, ImageError
from captionkit.utils.atomic_write import MARK, cannot_write

if TYPE_CHECKING:
    import pyarrow as pa

#: name -> what it is
FORMATS = {
    "jsonl": "JSON lines",
    "parquet": "Parquet with the images, as Hugging Face datasets have them",
    "txt": "a text file for each image, and JSON lines",
    "shards": "WebDataset tar shards of images with their captions, and JSON lines",
}
#: formats that hold the images themselves
WITH_IMAGES = ("parquet", "shards")

_PART = re.compile(r"part-(\d{6,})\.(jsonl|parquet|tar)")
_MOST = 1 << 26  # longest line that is examined
_GROUP = 64 << 20  # bytes of images in a row group, about


def part_name(index: int, suffix: str) -> str:
    """Return the name of a part's file."""
    return f"part-{index:06d}.{suffix}"


def part_of(name: str) -> int | None:
    """Return the index of the part that a file is of; None for other files."""
    found = _PART.fullmatch(name)
    return int(found[1]) if found else None


class Sink(Protocol):
    """One file of a part."""

    suffix: str

    def add(self, place: int, item: Item, record: Record, content: bytes) -> None:
        """Add an image: its place in the whole input, and its bytes if the format holds them."""
        ...

    def finish(self) -> None:
        """Write what is still held."""
        ...


class PartWriter:
    """Writes one part: add its images in order, then `close`. Leaving the block without it leaves nothing behind."""

    def __init__(self, store: Store, index: int, start: int, format: str) -> None:
        self._store, self._index, self._place, self._format = store, index, start, format
        self._files: list[tuple[str, Path, IO[bytes]]] = []
        self._sinks: list[Sink] = []

    def __enter__(self) -> PartWriter:
        for make in _SINKS[self._format]:
            name = part_name(self._index, make.suffix)
            path = self._store.scratch(name)
            try:
                file = path.open("wb")
            except OSError as error:
                raise cannot_write(path, error) from None
            self._files.append((name, path, file))
            self._sinks.append(make(file))
        return self

    def add(self, item: Item, record: Record, content: bytes = b"") -> Record:
        """Add an image and return its record; where its text file cannot be written, that is an error record."""
        if self._format == "txt":
            record = self._with_sidecar(item, record)
        try:
            for sink in self._sinks:
                sink.add(self._place, item, record, content)
        except OSError as error:
            raise cannot_write(self._files[0][1], error) from None
        self._place += 1
        return record

    def _with_sidecar(self, item: Item, record: Record) -> Record:
        if "captions" not in record:
            return record
        text = sidecar_text(record)
        try:
            before = self._store.read(item.sidecar)
            if before not in (None, text):
                raise CaptionkitError(f"{item.sidecar}: is there already, and not written by this run; move it away")
        except CaptionkitError as error:
            kept = {name: value for name, value in record.items() if name in ("id", "path", "model", "decoding")}
            return {**kept, "error": str(error)}
        if before is None:
            self._store.write(item.sidecar, text)
        return {**record, "sidecar": item.sidecar}

    def close(self) -> dict[str, Written]:
        """Put the files in their places and return them by name. Raises CaptionkitError."""
        made = {}
        try:
            for sink in self._sinks:
                sink.finish()
            for _, _, file in self._files:
                file.close()
        except OSError as error:
            raise cannot_write(self._files[0][1], error) from None
        for name, path, _ in reversed(self._files):  # the records last
            clear(self._store, name)  # what a worker has left that ended before it could tell
            made[name] = self._store.create(name, path)
        return made

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for _, path, file in self._files:
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                path.unlink(missing_ok=True)


def sidecar_text(record: Record) -> bytes:
    """Return what the text file beside an image holds: its captions, one a line."""
    return "".join(f"{caption['text']}\n" for caption in record["captions"]).encode()


class _Lines:
    suffix = "jsonl"

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def add(self, place: int, item: Item, record: Record, content: bytes) -> None:
        self._file.write(to_line(record))

    def finish(self) -> None:
        pass


class _Shard:
    """A tar of samples, each KEY.jpg with KEY.txt and KEY.json; KEY is the image's place in the whole input."""

    suffix = "tar"

    def __init__(self, file: IO[bytes]) -> None:
        self._tar = tarfile.open(  # noqa: SIM115
            fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": MARK}
        )

    def add(self, place: int, item: Item, record: Record, content: bytes) -> None:
        if "captions" not in record:
            return
        key = f"{place:09d}"
        self._put(f"{key}{suffix_of(content) or '.bin'}", content)
        self._put(f"{key}.txt", sidecar_text(record))
        self._put(f"{key}.json", to_line(record))
        for member in item.extras:
            ending = sample_key(member.name)[1]
            with suppress(OSError, ValueError, ImageError):  # the image was read, so the archive is whole up to here
                self._put(f"{key}.{f'before.{ending}' if f'.{ending}' in SIDECARS else ending}", member.read())

    def _put(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))

    def finish(self) -> None:
        self._tar.close()


class _Table:
    """A Parquet file whose columns Hugging Face datasets read as images, texts and numbers."""

    suffix = "parquet"

    def __init__(self, file: IO[bytes]) -> None:
        from pyarrow import parquet

        self._writer = parquet.ParquetWriter(file, _schema(), compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._held = 0

    def add(self, place: int, item: Item, record: Record, content: bytes) -> None:
        captions = record.get("captions", [])
        self._rows.append(
            {
                "id": _printable(record["id"]),
                "path": _printable(record["path"]),
                "image": {"bytes": content, "path": f"{place:09d}{suffix_of(content)}"} if captions else None,
                "caption": captions[0]["text"] if captions else None,
                "captions": captions,
                "confidence": record.get("confidence"),
                "review": record.get("review"),
                "note": record.get("note"),
                "error": _printable(record["error"]) if "error" in record else None,
                "model": record["model"],
                "decoding": record["decoding"],
            }
        )
        self._held += len(content)
        if self._held > _GROUP:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=_schema()))
        self._rows, self._held = [], 0

    def finish(self) -> None:
        if self._rows:
            self._write()
        self._writer.close()


def _printable(text: str) -> str:
    """Return a text that UTF-8 can hold: what is no Unicode in a name, as \\udcXX."""
    return text.encode("utf-8", "backslashreplace").decode()


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    captions = pa.list_(pa.struct([("text", text), ("log_prob", number), ("confidence", number)]))
    columns = {
        "id": text,
        "path": text,
        "image": pa.struct([("bytes", pa.binary()), ("path", text)]),
        "caption": text,
        "captions": captions,
        "confidence": number,
        "review": pa.bool_(),
        **dict.fromkeys(("note", "error", "model", "decoding"), text),
    }
    plain = {text: "string", number: "float64", pa.bool_(): "bool"}
    features: dict[str, Any] = {
        name: {"dtype": plain[kind], "_type": "Value"} for name, kind in columns.items() if kind in plain
    }
    features["image"] = {"_type": "Image"}
    inner = {name: features[other] for name, other in (("text", "id"), ("log_prob", "confidence"))}
    features["captions"] = [{**inner, "confidence": features["confidence"]}]
    ordered = {name: features[name] for name in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": ordered}}), "made_by": MARK}
    return pa.schema(list(columns.items()), metadata=metadata)


_SINKS: dict[str, tuple[type[_Lines] | type[_Shard] | type[_Table], ...]] = {
    "jsonl": (_Lines,),
    "parquet": (_Table,),
    "txt": (_Lines,),
    "shards": (_Lines, _Shard),
}


def is_ours(name: str, file: BinaryIO) -> bool:
    """Return whether captionkit wrote this file of a part, from its content."""
    suffix = name.rpartition(".")[2]
    try:
        if suffix == "jsonl":
            line = file.readline(_MOST)
            return not line or is_record(json.loads(line))
        if suffix == "tar":
            with tarfile.open(fileobj=file, mode="r:") as tar:
                return tar.pax_headers.get("comment") == MARK
        from pyarrow import parquet

        return (parquet.read_schema(file).metadata or {}).get(b"made_by") == MARK.encode()
    except ModuleNotFoundError:
        raise
    except Exception:  # what is damaged is not recognised; pyarrow, tarfile and json have many kinds of error
        return False


def clear(store: Store, name: str) -> None:
    """Remove a file of a part that captionkit wrote. Raises CaptionkitError if something else is in its place."""
    if not store.exists(name):
        return
    with store.open(name) as file:
        ours = is_ours(name, file)
    if not ours:
        raise CaptionkitError(
            f"{store.name}/{name}: is there already, and not written by captionkit; move it away or name another output"
        )
    store.remove(name)


def records_of(store: Store, name: str) -> Iterator[Record]:
    """Yield the records of a part from the file that holds them. Raises CaptionkitError if it is damaged."""
    with store.open(name) as file:
        if name.endswith(".parquet"):
            yield from _table_records(file)
            return
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise CaptionkitError(f"{store.name}/{name}: is damaged; remove it and run again") from None
            yield record


def _table_records(file: BinaryIO) -> Iterator[Record]:
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    kept = [name for name in table.schema_arrow.names if name not in ("image", "caption")]
    for batch in table.iter_batches(1000, columns=kept):
        for row in batch.to_pylist():
            record = {name: value for name, value in row.items() if value is not None}
            if "error" in record:
                del record["captions"]
            yield record


def records_name(index: int, format: str) -> str:
    """Return the name of the file that holds a part's records."""
    return part_name(index, "parquet" if format == "parquet" else "jsonl")
