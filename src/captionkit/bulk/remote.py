"""Remote files through fsspec (extra: bulk): s3://, gs://, hf://, memory:// and all else that it knows.

A store that fails for a moment is asked again, a little later each time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from captionkit.errors import CaptionkitError, ImageError, one_line
from captionkit.utils import paths

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_WEB = ("http", "https")
_PAUSES = (0.2, 0.8, 3.0, 10.0)  # seconds before the second, third, ... attempt
#: what no second attempt changes
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


def is_remote(path: str) -> bool:
    """Return whether a path is an address for fsspec, rather than a path of this machine or a page on the web."""
    scheme = _SCHEME.match(path)
    return scheme is not None and scheme[1].lower() not in _WEB


def is_url(path: str) -> bool:
    """Return whether a path is an address on the web."""
    scheme = _SCHEME.match(path)
    return scheme is not None and scheme[1].lower() in _WEB


def require(module: str, extra: str) -> None:
    """Raise CaptionkitError if an optional module is not installed."""
    if find_spec(module) is None:
        raise CaptionkitError(f"{module} is not installed; run `pip install 'captionkit[{extra}]'`")


def file_system(address: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of an address, and the path in it. Raises CaptionkitError if there is none."""
    try:
        import fsspec
    except ModuleNotFoundError:
        raise CaptionkitError(
            f"{paths.shown(address)}: fsspec is not installed; run `pip install 'captionkit[bulk]'`"
        ) from None
    try:
        return fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:  # s3fs, gcsfs, ...: fsspec's own message names what to install
        raise CaptionkitError(f"{paths.shown(address)}: {one_line(error)}") from None
    except Exception as error:  # unknown protocols, and credentials that are missing
        reason = one_line(error)
        raise CaptionkitError(f"{paths.shown(address)}: cannot be opened ({reason}); check the address") from None


def persistently(ask: Callable[[], T], address: str, failure: type[CaptionkitError] = CaptionkitError) -> T:
    """Return what `ask` returns, asking again after a failure. Raises `failure` if it keeps failing."""
    for pause in (*_PAUSES, None):
        try:
            return ask()
        except Exception as error:  # each store has exceptions of its own
            if isinstance(error, CaptionkitError):
                raise
            if pause is None or isinstance(error, _FINAL):
                tries = 1 if isinstance(error, _FINAL) else len(_PAUSES) + 1
                raise failure(
                    f"{paths.shown(address)}: the store does not answer as it should (tried {tries} x: "
                    f"{type(error).__name__}: {one_line(error)}); check the address and your access"
                ) from None
            time.sleep(pause)
    raise AssertionError("unreachable")


def read_remote(address: str, *, limit: int) -> bytes:
    """Return the content of a remote file, at most `limit` bytes. Raises ImageError."""
    system, path = file_system(address)

    def read() -> bytes:
        with system.open(path, "rb") as file:
            return file.read(limit + 1)

    content = persistently(read, address, ImageError)
    if len(content) > limit:
        raise ImageError(f"{paths.shown(address)}: has more than {limit:,} bytes; make it smaller")
    return content


@dataclass(frozen=True, slots=True)
class RemoteMember:
    """A file stored uncompressed inside a remote archive: `size` bytes from byte `offset`."""

    address: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.address}/{self.name}"

    def read(self) -> bytes:
        """Return the content. Raises ImageError, and ValueError if the archive has been truncated."""
        system, path = file_system(self.address)
        end = self.offset + self.size
        content = persistently(lambda: system.cat_file(path, self.offset, end), str(self), ImageError)
        if len(content) < self.size:
            raise ValueError(f"{self.address} ends before it; it has changed since it was listed")
        return bytes(content)


class RemoteFile:
    """An open remote file, whose reads are asked for again after a failure. Raises CaptionkitError."""

    def __init__(self, address: str) -> None:
        system, path = file_system(address)
        self._address, self._place = address, 0
        self._file: BinaryIO = persistently(lambda: system.open(path, "rb"), address)

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a byte, and return its place."""
        self._place = self._file.seek(offset, whence)
        return self._place

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""

        def read() -> bytes:
            self._file.seek(self._place)
            return self._file.read(size)

        content = persistently(read, self._address)
        self._place += len(content)
        return content


def list_remote(address: str) -> Iterator[tuple[str, bool, int]]:
    """Yield the name, whether it is a folder, and the size of each entry of a remote folder, in no order."""
    system, path = file_system(address)
    entries: list[dict[str, Any]] = persistently(lambda: system.ls(path, detail=True, refresh=True), address)
    for entry in entries:
        name = entry["name"].rstrip("/")
        if name != path.rstrip("/"):  # some stores list the folder itself
            yield name.rpartition("/")[2], entry["type"] == "directory", int(entry.get("size") or 0)
