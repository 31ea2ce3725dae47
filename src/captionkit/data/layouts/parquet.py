"""Parquet files of images with captions (extra: bulk), as `captionkit bulk` and Hugging Face datasets write them.

A column holds the images' bytes, alone or in a struct with "bytes" and "path"; another one their captions: texts, lists
of texts, or of objects with a text. The split is in a file's name or its folder's: train-00000.parquet, val/0.parquet.

Parquet is read from its beginning to its end, but training wants its images in any order. So the images of a file are
copied, once, to a file in the cache, in which each is found by its place. It is named by the Parquet file's path, size
and modification time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from captionkit.data.layouts.assemble import Place, StatedImage
from captionkit.data.layouts.caption_set import Problem, id_of_file, split_of_file, split_of_folder
from captionkit.data.layouts.caption_values import CAPTION_COLUMNS
from captionkit.data.layouts.csv import IMAGE_COLUMNS
from captionkit.errors import CaptionkitError, DatasetError, one_line
from captionkit.utils import atomic_write
from captionkit.utils.archive import ArchiveMember
from captionkit.utils.paths import cache_folder
from captionkit.utils.progress import progress_bar

if TYPE_CHECKING:
    import pyarrow as pa

LOOKS_FOR = "*.parquet with a column of image bytes and one of captions, here or in data/, train/, val/, test/"
_VERSION = 1  # of the cache format
_ROWS = 32  # read at once
#: columns of bytes, beside those that tables of any kind have
_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "photo", "image_bytes", "bytes", *IMAGE_COLUMNS)
_URLS = ("url", "image_url", "img_url", "URL")


def image_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that may have images, the likeliest first: of bytes, then of paths and URLs."""
    with_bytes = bytes_columns(schema)
    named = [name for name in (*_COLUMNS, *_URLS) if name in schema.names]
    return list(dict.fromkeys([*with_bytes, *named]))


def bytes_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of bytes, alone or in a struct, the likeliest first."""
    fitting = [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    return [*(name for name in _COLUMNS if name in fitting), *(name for name in fitting if name not in _COLUMNS)]


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def detect(place: Place) -> list[Path]:
    """Return the files that have both columns, by name; none where pyarrow is not installed."""
    if place.file:
        named = [place.file] if place.file.suffix.casefold() == ".parquet" else []
    else:
        folders = [place.root, place.root / "data", *place.split_folders("data")]
        inner = (sorted(folder.iterdir()) for folder in folders if folder.is_dir())
        named = [path for paths in inner for path in paths if path.suffix.casefold() == ".parquet" and path.is_file()]
    try:
        return [path for path in named if _columns(path)]
    except ModuleNotFoundError:
        return []


def _columns(path: Path) -> tuple[str, str] | None:
    """Return the columns of images and of captions; None if the file lacks one, or is damaged."""
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
    except Exception:  # pyarrow has many kinds; `unsupported` tells of the file
        return None
    image = next(iter(bytes_columns(schema)), None)
    caption = next((name for name in CAPTION_COLUMNS if name in schema.names), None)
    return (image, caption) if image and caption else None


def read(place: Place, tables: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images in the order of the files and their rows.

    An id is the image's file name, if the table has one, else file and row; file and row, too, if the name is repeated.
    """
    taken = set()
    for path in progress_bar(tables, len(tables), "tables"):
        source = place.name(path)
        split = split_of_folder(path.parent.name) or split_of_file(path.stem) or ""
        images, unpacked = _contents(path)
        for row, (name, offset, size, captions) in enumerate(images):
            if not size:
                detail = f"{source}: the row has no image (captions left out: {len(captions)})"
                yield Problem("missing image", f"row {row}", detail)
                continue
            by_row = f"{path.stem}/{row}"
            known = id_of_file(name) if name else by_row
            known = by_row if (split, str(known)) in taken else known
            taken.add((split, str(known)))
            member = ArchiveMember(unpacked, name or by_row, offset, size)
            yield StatedImage(known, member.name, captions, split, source, member=member)


Images = list[tuple[str, int, int, list[Any]]]


def _contents(path: Path) -> tuple[Images, Path]:
    """Return each row's file name, place, size and captions, and the file that the images were copied to."""
    status = path.stat()
    facts = repr((_VERSION, str(path.resolve()), status.st_size, status.st_mtime_ns))
    digest = hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()[:32]
    unpacked = cache_folder() / "parquet" / f"{digest}.images"
    index = unpacked.with_suffix(".json")
    with suppress(OSError, ValueError, TypeError, KeyError):  # missing, or not a valid cache file
        content = json.loads(index.read_text(encoding="utf-8"))
        if unpacked.stat().st_size == content["bytes"]:
            return [tuple(row) for row in content["rows"]], unpacked
    images, size = _unpack(path, unpacked)
    with suppress(CaptionkitError):  # without it, the next call unpacks again
        atomic_write.write_text(index, json.dumps({"bytes": size, "rows": images}))
    return images, unpacked


def _unpack(path: Path, to: Path) -> tuple[Images, int]:
    """Copy the images of a file to another one, one after another. Raises DatasetError."""
    temporary = ""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=to.parent, suffix=".partial", delete=False) as file:
            temporary = file.name
            images = [row for rows in _rows(path) for row in _copied(rows, file)]
            size = file.tell()
        Path(temporary).replace(to)
    except OSError as error:
        reason = f"{to.parent}: cannot hold the images of {path.name} ({error.strerror or error})"
        raise DatasetError(f"{reason}; free space, or name another cache in CAPTIONKIT_CACHE") from None
    finally:
        if temporary and os.path.exists(temporary):  # noqa: PTH110
            Path(temporary).unlink()
    return images, size


def _rows(path: Path) -> Iterator[list[tuple[Any, Any]]]:
    from pyarrow import parquet

    columns = _columns(path)
    assert columns is not None  # or it was not detected
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(_ROWS, columns=list(columns), use_threads=False):
                image, caption = (batch.column(name).to_pylist() for name in columns)
                yield list(zip(image, caption, strict=True))
    except OSError as error:  # which pyarrow raises for damage, too
        raise DatasetError(f"{path}: cannot be read as Parquet ({one_line(error)}); fetch it again") from None


def _copied(rows: list[tuple[Any, Any]], file: IO[bytes]) -> Iterator[tuple[str, int, int, list[Any]]]:
    for image, caption in rows:
        content, name = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
        captions = caption if isinstance(caption, list) else [] if caption is None else [caption]
        start = file.tell()
        file.write(content or b"")
        yield Path(name).name if isinstance(name, str) else "", start, len(content or b""), captions
