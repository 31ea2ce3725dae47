"""The contents of an uncompressed tar archive, located from its headers only; nothing is unpacked.

The standard library parses each header. Walking from header to header is done here: tarfile takes a damaged header for
the end, and older Pythons follow a negative size backwards for ever.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from captionkit.data.layouts.caption_set import Problem
from captionkit.utils.archive import ArchiveMember

_BLOCK = tarfile.BLOCKSIZE
#: the largest extra header that is read: long names and pax records
_MAX_EXTRA = 1 << 20
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_PAX, _PAX_GLOBAL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.XGLTYPE
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Seekable(Protocol):
    """What is needed of an open file."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a byte, from the beginning or (2) from the end; return its place."""
        ...

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        ...


def walk(path: Path) -> Iterator[ArchiveMember | Problem]:
    """Yield the regular files in the archive at `path`, in order, and a Problem for everything unusual.

    What follows damage cannot be found and is left out. The `where` of a Problem is a member's name, or the archive's.
    Raises OSError.
    """
    with path.open("rb", buffering=0) as file:
        yield from walk_file(path, file)


def walk_file(path: Path, file: Seekable) -> Iterator[ArchiveMember | Problem]:
    """Yield what `walk` does from an archive that is open; `path` is its name."""
    try:
        yield from _members(path, file)
    except (_Damage, tarfile.HeaderError) as damage:
        yield Problem("damaged shard", path.name, f"{damage}; what precedes is used; make or fetch it again")


class _Damage(Exception):  # noqa: N818
    """The rest of the archive cannot be read."""


def _members(path: Path, file: Seekable) -> Iterator[ArchiveMember | Problem]:
    end = file.seek(0, 2)
    if kind := next((kind for magic, kind in _COMPRESSED.items() if _read(file, 0, 6).startswith(magic)), None):
        yield Problem("compressed shard", path.name, f"is packed by {kind}, and only plain .tar is read; unpack it")
        return
    place = 0
    given: dict[str, str] = {}
    while block := _read(file, place, _BLOCK):
        if not block.strip(b"\0"):
            return
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        extra = info.type in (*_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK)
        size, start = _whole(info.size if extra else given.get("size", info.size)), place + _BLOCK
        filled = size if extra or info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
        name = given.get("path", info.name)
        if start + filled > end:
            raise _Damage(f"ends in the middle of {name}, at byte {end:,}")
        place = start + -(-filled // _BLOCK) * _BLOCK
        if info.type in (*_PAX, _LONG_NAME):
            if size > _MAX_EXTRA:
                raise _Damage(f"has a header of {size:,} bytes at byte {start:,}")
            content = _read(file, start, size)
            given |= _records(content) if info.type in _PAX else {"path": _text(content.rstrip(b"\0"))}
        elif not extra:
            found = _usable(path, name, info, given, start, size)
            given = {}
            if found:
                yield found
    raise _Damage("has no end mark, so it may be cut" if end else "is empty")


def _usable(
    path: Path, name: str, info: tarfile.TarInfo, given: dict[str, str], start: int, size: int
) -> ArchiveMember | Problem | None:
    """Return the member, or why it cannot be used; None for folders and for hidden files, which some systems add."""
    parts = name.replace("\\", "/").split("/")
    if info.isdir() or parts[-1].startswith("."):
        return None
    if ".." in parts or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name):
        return Problem("path outside the root", name, "names in a shard are relative, without ..; make it again")
    sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in given)
    if sparse or not info.isreg():
        kind = "link" if info.islnk() or info.issym() else "not a plain file"
        return Problem(f"{kind} in a shard", name, "left out; `tar --dereference --hard-dereference` stores the file")
    return ArchiveMember(path, name.removeprefix("./"), start, size)


def _read(file: Seekable, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _whole(size: int | str) -> int:
    if (isinstance(size, str) and not re.fullmatch("[0-9]{1,18}", size)) or int(size) < 0:
        raise _Damage(f"states a size of {str(size)[:20]} bytes")
    return int(size)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _records(content: bytes) -> dict[str, str]:
    """Parse pax records, each "LENGTH KEY=VALUE\\n", where the length counts the whole record."""
    records = {}
    while content:
        length, space, _ = content[:20].partition(b" ")
        record = content[: int(length)] if space and length.isdigit() else b""
        key, equals, value = record[len(length) + 1 : -1].partition(b"=")
        if not equals or len(record) < int(length) or not record.endswith(b"\n"):
            raise _Damage("has a pax header that is none")
        records[_text(key)] = _text(value)
        content = content[len(record) :]
    return records
