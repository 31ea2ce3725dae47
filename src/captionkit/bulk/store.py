"""Where a run's files lie: a folder of this machine, or a remote one through fsspec.

Every file appears whole or not at all. Of what is there already, only files that captionkit wrote are replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from captionkit.bulk.remote import file_system, is_remote, persistently
from captionkit.bulk.tree import is_within
from captionkit.errors import CaptionkitError
from captionkit.utils import atomic_write, paths

_BLOCK = 1 << 20
_PARTIAL = re.compile(r"\.part-\d{6,}\..*\.partial")
_LOCK = ".captionkit-bulk.lock"
#: of a remote run: seconds between two signs of life, and after how many without one a run counts as dead
_SIGN, _DEAD = 20.0, 90.0
_LEASE = "manifest/lease.json"


@dataclass(frozen=True)
class Written:
    """A file that was written: its size in bytes and its SHA-256."""

    bytes: int
    sha256: str


class Store(Protocol):
    """A folder for the files of a run; names are relative to it, with "/"."""

    name: str

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none. Raises CaptionkitError."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a small file. Raises CaptionkitError."""
        ...

    def create(self, name: str, temporary: Path) -> Written:
        """Move a finished temporary file of this machine to its place. Raises CaptionkitError."""
        ...

    def scratch(self, name: str) -> Path:
        """Return a path for the temporary file that will become `name`. Raises CaptionkitError."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether anything has this name. Raises CaptionkitError."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading. Raises CaptionkitError."""
        ...

    def names(self) -> Iterator[str]:
        """Yield the names of the files directly in the folder."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises CaptionkitError."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Keep others from writing while the block runs. Raises CaptionkitError if another does already."""
        ...


def open_store(name: str) -> Store:
    """Return the store at a path or address. Raises CaptionkitError if a file is there."""
    return RemoteStore(name) if is_remote(name) else LocalStore(name)


class LocalStore:
    """A folder of this machine; created when first written to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._root = Path(name)

    def _path(self, name: str) -> Path:
        """Return the path of a file. Raises CaptionkitError if links lead it out of the folder."""
        place = self._root / name
        if "/" in name and not is_within(place, self._root):
            raise CaptionkitError(f"{place}: leads out of {self._root}; remove the link")
        return place

    def read(self, name: str) -> bytes | None:
        """See Store."""
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CaptionkitError(paths.unreadable(self._root / name, error)) from None

    def write(self, name: str, content: bytes) -> None:
        """See Store."""
        atomic_write.write_bytes(self._path(name), content)

    def scratch(self, name: str) -> Path:
        """See Store."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise atomic_write.cannot_write(self._root, error) from None
        return self._root / f".{name}.{secrets.token_hex(4)}.partial"

    def create(self, name: str, temporary: Path) -> Written:
        """See Store. Refuses to replace a file."""
        place = self._root / name
        try:
            with temporary.open("rb+") as file:
                written = _measured(file)
                os.fsync(file.fileno())
            if place.exists():
                raise CaptionkitError(f"{place}: has appeared while the run went on; move it away and run again")
            temporary.replace(place)
            _sync_folder(self._root)
        except OSError as error:
            raise atomic_write.cannot_write(place, error) from None
        return written

    def exists(self, name: str) -> bool:
        """See Store."""
        return os.path.lexists(self._root / name)

    def open(self, name: str) -> BinaryIO:
        """See Store."""
        try:
            return (self._root / name).open("rb")
        except OSError as error:
            raise CaptionkitError(paths.unreadable(self._root / name, error)) from None

    def names(self) -> Iterator[str]:
        """See Store."""
        try:
            with os.scandir(self._root) as entries:
                for entry in entries:
                    if entry.is_file():
                        yield entry.name
        except FileNotFoundError:
            return
        except OSError as error:
            raise CaptionkitError(paths.unreadable(self._root, error)) from None

    def remove(self, name: str) -> None:
        """See Store."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise atomic_write.cannot_write(self._root / name, error) from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """See Store. The system drops the lock with the process that held it, however that ends."""
        import filelock

        try:
            self._root.mkdir(parents=True, exist_ok=True)
            held = filelock.FileLock(self._root / _LOCK, timeout=0)
            held.acquire()
        except filelock.Timeout:
            raise CaptionkitError(
                f"{paths.shown(self._root)}: another run writes here; wait for it or name another output"
            ) from None
        except OSError as error:
            raise atomic_write.cannot_write(self._root, error) from None
        try:
            self._sweep()
            yield
        finally:
            self._sweep()
            held.release()

    def _sweep(self) -> None:
        """Remove the temporary files of parts that were not finished; whoever wrote them has ended."""
        with suppress(CaptionkitError):
            for name in [name for name in self.names() if _PARTIAL.fullmatch(name)]:
                self.remove(name)


class RemoteStore:
    """A folder that fsspec reaches. A file is uploaded whole, which object stores show whole."""

    def __init__(self, name: str) -> None:
        self.name = name.rstrip("/")
        self._system, self._root = file_system(self.name)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        """See Store."""

        def read() -> bytes | None:
            try:
                return self._system.cat_file(self._path(name))
            except FileNotFoundError:
                return None

        return persistently(read, f"{self.name}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """See Store."""
        path = self._path(name)

        def write() -> None:
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(path, content)

        persistently(write, f"{self.name}/{name}")

    def scratch(self, name: str) -> Path:
        """See Store."""
        handle, path = tempfile.mkstemp(prefix=f".{name}.", suffix=".partial")
        os.close(handle)
        return Path(path)

    def create(self, name: str, temporary: Path) -> Written:
        """See Store."""
        path = self._path(name)
        with temporary.open("rb") as file:
            written = _measured(file)

        def put() -> None:
            self._system.makedirs(self._root, exist_ok=True)
            self._system.put_file(str(temporary), path)

        try:
            persistently(put, f"{self.name}/{name}")
        finally:
            temporary.unlink(missing_ok=True)
        return written

    def exists(self, name: str) -> bool:
        """See Store."""
        return persistently(lambda: self._system.exists(self._path(name)), f"{self.name}/{name}")

    def open(self, name: str) -> BinaryIO:
        """See Store."""
        return persistently(lambda: self._system.open(self._path(name), "rb"), f"{self.name}/{name}")

    def names(self) -> Iterator[str]:
        """See Store."""

        def listed() -> list[str]:
            try:
                entries = self._system.ls(self._root, detail=True, refresh=True)
            except FileNotFoundError:
                return []
            return [entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "file"]

        yield from persistently(listed, self.name)

    def remove(self, name: str) -> None:
        """See Store."""

        def remove() -> None:
            with suppress(FileNotFoundError):
                self._system.rm_file(self._path(name))

        persistently(remove, f"{self.name}/{name}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """See Store. The lock is a file with a time, renewed while the run lives; a dead run's goes stale."""
        owner = secrets.token_hex(8)
        self._refuse_others(owner)
        self._sign(owner)
        time.sleep(0.2)  # of two that come at once, the later one to write stays
        self._refuse_others(owner)
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(_SIGN):
                with suppress(CaptionkitError):
                    self._sign(owner)

        renewing = threading.Thread(target=renew, name="captionkit-lease", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            self.remove(_LEASE)

    def _sign(self, owner: str) -> None:
        lease = {"owner": owner, "host": socket.gethostname(), "process": os.getpid(), "time": time.time()}
        self.write(_LEASE, json.dumps(lease).encode())

    def _refuse_others(self, owner: str) -> None:
        try:
            lease = json.loads(self.read(_LEASE) or b"{}")
            other = lease.get("owner", owner) != owner and time.time() - float(lease.get("time", 0)) < _DEAD
        except (ValueError, TypeError, AttributeError):
            return
        if other:
            raise CaptionkitError(
                f"{self.name}: another run writes here (process {lease.get('process')} on {lease.get('host')}); wait "
                f"for it, or {_DEAD:.0f} seconds after it died, or name another output"
            )


def _measured(file: BinaryIO) -> Written:
    digest, size = hashlib.sha256(), 0
    while block := file.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return Written(size, digest.hexdigest())


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def copy_file(source: Store, name: str, target: Store) -> Written:
    """Copy a file from one store to another, under the same name. Raises CaptionkitError."""
    temporary = target.scratch(name)
    try:
        with source.open(name) as file, temporary.open("wb") as copy:
            shutil.copyfileobj(file, copy, _BLOCK)
        return target.create(name, temporary)
    except OSError as error:
        raise atomic_write.cannot_write(temporary, error) from None
    finally:
        temporary.unlink(missing_ok=True)
