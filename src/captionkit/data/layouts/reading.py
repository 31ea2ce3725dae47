"""Reading caption files: with a size limit, decoded, and with errors that name the file and the line."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from captionkit.errors import DatasetError
from captionkit.utils import paths

MAX_BYTES = 1 << 30
"""The largest caption file that is read, 1 GiB: seven times Karpathy's COCO file. A JSON takes several times its size
in memory while it is read."""

_PEEK = 1 << 16

# Files that are not text despite their names: first bytes, and the message.
_FOREIGN = {
    b"\x1f\x8b": "is packed by gzip; unpack it with `gunzip`",
    b"BZh": "is packed by bzip2; unpack it with `bunzip2`",
    b"\xfd7zXZ": "is packed by xz; unpack it with `unxz`",
    b"\x28\xb5\x2f\xfd": "is packed by zstd; unpack it with `unzstd`",
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet; unpack it, or save it as CSV (UTF-8)",
    b"PAR1": "is a Parquet file; save it as CSV, as pandas does",
    b"version https://git-lfs": "is only the pointer to a file in Git LFS; fetch the file by `git lfs pull`",
}

PairsHook = Callable[[list[tuple[str, Any]]], Any]


def read_text(path: Path) -> str:
    """Return a whole file in UTF-8 (or UTF-16 with a byte order mark), without its byte order mark.

    A NUL is rejected: no caption contains one, and it indicates UTF-16 without its mark.
    """
    paths.check_file(path, DatasetError)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DatasetError(
            f"{path}: {size / 2**20:,.1f} MiB, but a caption file may have {MAX_BYTES / 2**20:,.1f} MiB; "
            "split it into several"
        )
    data = path.read_bytes()
    if foreign := next((what for start, what in _FOREIGN.items() if data.startswith(start)), None):
        raise DatasetError(f"{path}: {foreign}")
    try:
        text = decoded(data)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{error.object[error.start]:02x}"
        raise DatasetError(f"{path}, line {line}: not UTF-8 text ({byte}, {error.reason}); save it as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DatasetError(f"{path}, line {line}: not UTF-8 text (it holds a NUL); save it as UTF-8")
    return text


def decoded(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark, without the mark. Raises UnicodeDecodeError."""
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if utf16 else "utf-8-sig")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) for each non-blank line; \\n, \\r\\n and \\r end a line."""
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):
        if line.strip():
            yield number, line.rstrip("\n")


def read_json(path: Path, pairs_hook: PairsHook | None = None) -> Any:
    """Return the value of a JSON file; `pairs_hook` is json.loads' object_pairs_hook."""
    return _parse(read_text(path), path, 0, pairs_hook)


def keep_repeated(pairs: list[tuple[str, Any]]) -> Any:
    """Keep repeated keys: a `pairs_hook` that returns pairs for an object with a key twice (json keeps the last)."""
    content = dict(pairs)
    return content if len(content) == len(pairs) else pairs


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) for each line of a JSON lines file."""
    for number, line in read_lines(path):
        yield number, _parse(line, path, number - 1, None)


def _parse(text: str, path: Path, lines_before: int, pairs_hook: PairsHook | None) -> Any:
    try:
        return json.loads(text, object_pairs_hook=pairs_hook)
    except json.JSONDecodeError as error:
        where = f"{path}, line {lines_before + error.lineno}, column {error.colno}"
        raise DatasetError(f"{where}: not valid JSON ({error.msg}); fix it or fetch the file again") from None
    except (ValueError, RecursionError) as error:  # a number with thousands of digits; brackets nested thousands deep
        raise DatasetError(f"{path}: not JSON that can be read ({error}); fix it or fetch the file again") from None


def peek(path: Path) -> tuple[str, str]:
    """Return the first and the last 64 KiB of a file, to identify it without reading it all."""
    paths.check_file(path, DatasetError)
    with path.open("rb") as file:
        head = file.read(_PEEK)
        file.seek(max(0, path.stat().st_size - _PEEK))
        utf16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(head[:2], "")
        return _legible(head, utf16), _legible(file.read(_PEEK), utf16)


def peek_line(path: Path) -> str:
    """Return the first line of a file, skipping Excel's `sep=;`, to identify it without reading it all."""
    return first_line(re.sub(r"^sep=.[\r\n]+", "", peek(path)[0], flags=re.IGNORECASE))


def first_line(text: str) -> str:
    """Return the first line of a text, cut at the longest possible header."""
    return re.split(r"[\r\n]", text[:_PEEK], maxsplit=1)[0]


def _legible(data: bytes, utf16: str) -> str:
    # Without its NULs, the ASCII part of UTF-16 without a byte order mark reads like UTF-8.
    text = data.decode(utf16, "ignore") if utf16 else data.replace(b"\0", b"").decode("utf-8", "ignore")
    return text.removeprefix("\ufeff")
