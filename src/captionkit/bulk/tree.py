"""Files under a folder, local or remote, in an order that is the same on every machine, without holding them all."""

from __future__ import annotations

import errno
import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from captionkit.bulk.items import Place, Remote
from captionkit.bulk.remote import list_remote
from captionkit.errors import CaptionkitError
from captionkit.utils import paths

_AT_ONCE = 100_000  # entries of a folder that are sorted in memory; more are merged from temporary files
_MISSING = -1  # size of a file that cannot be looked at


class Entry(NamedTuple):
    """A file or folder within a folder. `identity` is a number for each real folder; 0 where links do not exist."""

    name: str
    size: int
    folder: bool = False
    link: bool = False
    identity: int = 0


class File(NamedTuple):
    """A file of the tree by its path from the root; `error` says why a folder in its place cannot be read."""

    path: str
    size: int
    error: str = ""


class Tree(Protocol):
    """A folder to walk."""

    root: str

    def identity(self) -> int:
        """Return the number of the root itself, as in an Entry."""
        ...

    def entries(self, folder: str) -> Iterator[Entry]:
        """Yield what is in a folder, given by its path from the root, in no order. Raises OSError, CaptionkitError."""
        ...

    def address(self, path: str) -> str:
        """Return the path of a file as users write it, from its path from the root."""
        ...

    def place(self, path: str) -> Place:
        """Return where the bytes of a file are."""
        ...


class LocalTree:
    """A folder of this machine. Names that begin with a dot are left out: thumbnails, trash, what macOS adds."""

    def __init__(self, root: str) -> None:
        self.root = root

    def identity(self) -> int:
        """See Tree."""
        with suppress(OSError):
            return _identity(os.stat(self.root))  # noqa: PTH116
        return 0

    def entries(self, folder: str) -> Iterator[Entry]:
        """See Tree."""
        with os.scandir(self.address(folder)) as found:
            for entry in found:
                if not entry.name.startswith("."):
                    yield _entry(entry)

    def address(self, path: str) -> str:
        """See Tree."""
        return f"{self.root.rstrip('/') or '/'}/{path}" if path else self.root

    def place(self, path: str) -> Place:
        """See Tree."""
        return self.address(path)


def _entry(entry: os.DirEntry[str]) -> Entry:
    try:
        folder, link = entry.is_dir(), entry.is_symlink()
        status = entry.stat()
    except OSError as error:  # a broken link is found out when it is read; a loop of links is no folder
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            return Entry(entry.name, _MISSING, folder=entry.is_dir(follow_symlinks=False))
        return Entry(entry.name, _MISSING)
    return Entry(entry.name, status.st_size, folder, link, _identity(status))


def _identity(status: os.stat_result) -> int:
    return status.st_dev << 64 | status.st_ino


class RemoteTree:
    """A folder that fsspec reaches. The list of one of its folders is held in memory; fsspec gives no other."""

    def __init__(self, root: str) -> None:
        self.root = root

    def identity(self) -> int:
        """See Tree."""
        return 0

    def entries(self, folder: str) -> Iterator[Entry]:
        """See Tree."""
        for name, is_folder, size in list_remote(self.address(folder)):
            if not name.startswith("."):
                yield Entry(name, size, is_folder)

    def address(self, path: str) -> str:
        """See Tree."""
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def place(self, path: str) -> Place:
        """See Tree."""
        return Remote(self.address(path))


def walk(tree: Tree) -> Iterator[File]:
    """Yield all files under the root: a folder's own, sorted by stem and suffix, then those of its folders.

    Links are followed; each folder is entered once, linked ones after all others, so that a loop of links ends.
    """
    entered = {tree.identity()} - {0}
    linked: list[Entry] = []  # by their paths
    yield from _walk(tree, "", entered, linked)
    while linked:
        link = linked.pop(0)
        if link.identity not in entered:
            entered.add(link.identity)
            yield from _walk(tree, link.name, entered, linked)


def _walk(tree: Tree, folder: str, entered: set[int], linked: list[Entry]) -> Iterator[File]:
    try:
        for entry in in_order(tree.entries(folder)):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if not entry.folder:
                yield File(path, entry.size)
            elif entry.link:
                linked.append(entry._replace(name=path))
            elif entry.identity not in entered:
                if entry.identity:
                    entered.add(entry.identity)
                yield from _walk(tree, path, entered, linked)
    except OSError as error:
        yield File(f"{folder}/", _MISSING, paths.unreadable(tree.address(folder), error))
    except CaptionkitError as error:  # a remote folder
        yield File(f"{folder}/", _MISSING, str(error))


def in_order(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield files before folders, each sorted by stem, then suffix; a large number of them by way of files."""
    lines = map(_line, entries)
    chunk = sorted(islice(lines, _AT_ONCE))
    if len(chunk) < _AT_ONCE:
        yield from map(_parsed, chunk)
        return
    with ExitStack() as stack:
        runs: list[Iterable[str]] = []
        while chunk:
            run = stack.enter_context(
                tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape", newline="\n")
            )
            run.writelines(chunk)
            run.seek(0)
            runs.append(run)
            chunk = sorted(islice(lines, _AT_ONCE))
        yield from map(_parsed, heapq.merge(*runs))


def _line(entry: Entry) -> str:
    """Return an entry as a line that sorts as wanted. No name has a slash or a NUL, so both are free for use."""
    stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122 - a Path would not take every name
    numbers = f"{entry.size}\0{int(entry.link)}\0{entry.identity}"
    return f"{int(entry.folder)}{stem}\0{suffix}\0{numbers}".replace("\n", "/") + "\n"


def _parsed(line: str) -> Entry:
    stem, suffix, size, link, identity = line[1:-1].replace("/", "\n").split("\0")
    return Entry(stem + suffix, int(size), line[0] == "1", link == "1", int(identity))


def is_within(path: str | Path, folder: str | Path) -> bool:
    """Return whether a local path is a folder, or lies in it, once links are followed."""
    return paths.real(path).is_relative_to(paths.real(folder))
