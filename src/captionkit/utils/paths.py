"""Checks and reads of user-given paths, with one-line error messages for whatever the system answers.

`Path.exists` and similar methods raise for a folder without access rights and for a name that is too long, and opening
a named pipe can block for ever. So every path that comes from the user is checked and read through this module.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path
from typing import Literal

from captionkit.errors import CaptionkitError

Kind = Literal["file", "folder", "pipe", "device"]
AnyPath = str | os.PathLike[str]

#: suffixes of the images that every installation opens
PLAIN_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
#: suffixes of the images that an extra opens, by its name
EXTRA_SUFFIXES = {
    "heif": (".heic", ".heif", ".hif"),
    "raw": (
        *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".rwl"),
        *(".pef", ".srw", ".iiq", ".3fr", ".fff", ".erf", ".kdc", ".dcr", ".mrw", ".mef", ".x3f", ".gpr"),
    ),
}
#: file suffixes that count as images, in folders, datasets and archives alike
IMAGE_SUFFIXES = (*PLAIN_SUFFIXES, *EXTRA_SUFFIXES["heif"], *EXTRA_SUFFIXES["raw"])

_SHOWN = 100  # longest path in a message, in characters
_SILENCE = 30.0  # seconds without data before a pipe times out
_WHOLE = "a named pipe or device, which cannot be read as a whole; write it to a file first"
_NOT_A_FILE: dict[Kind | None, str] = {
    None: f"cannot be read ({os.strerror(errno.ENOENT)}); check the path",
    "folder": "is a folder where a file is wanted; name the file in it",
    "pipe": f"is {_WHOLE}",
    "device": f"is {_WHOLE}",
}
_WAYS_OUT = {
    errno.EACCES: "check its permissions and those of the folders above it",
    errno.EPERM: "check its permissions and those of the folders above it",
    errno.ENAMETOOLONG: "were several names, or a text, given as one?",
    errno.ELOOP: "its links lead in a circle; recreate them",
    errno.EISDIR: "name the file in it",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
}


def shown(path: AnyPath) -> str:
    """Return a path for use in messages: printable, and with its middle elided if it is long."""
    name = os.fsdecode(path)
    if len(name) > _SHOWN:
        name = f"{name[: _SHOWN // 2]}...{name[-_SHOWN // 2 :]}"
    return name if name and name.isprintable() else repr(name)


def unreadable(path: AnyPath, error: OSError | ValueError) -> str:
    """Return the message for a path that the system refuses: which path, why, and what to do."""
    if isinstance(error, OSError):
        way_out = _WAYS_OUT.get(error.errno or 0, "check the path and its disk")
        return f"{shown(path)}: cannot be read ({error.strerror or error}); {way_out}"
    return f"{shown(path)}: cannot be the name of a file ({error}); check it"


def kind_of(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError) -> Kind | None:
    """Return what is at `path`, links followed; None if nothing is.

    Raises `failure` if that cannot be determined (no access to a folder, a name too long, a loop of links), and for "",
    which pathlib treats as the current folder and which usually comes from an unset shell variable.
    """
    if not os.fspath(path):
        raise failure("'': an empty name where a path is wanted; is a shell variable unset?")
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise failure(unreadable(path, error)) from None
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device"


def exists(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError) -> bool:
    """Return whether anything is at `path`. Raises `failure` as `kind_of` does."""
    return kind_of(path, failure) is not None


def is_file(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError) -> bool:
    """Return whether a regular file is at `path`. Raises `failure` as `kind_of` does."""
    return kind_of(path, failure) == "file"


def is_folder(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError) -> bool:
    """Return whether a folder is at `path`. Raises `failure` as `kind_of` does."""
    return kind_of(path, failure) == "folder"


def real(path: AnyPath) -> Path:
    """Resolve links as far as possible; unlike Path.resolve, do not raise for a loop of links."""
    return Path(os.path.realpath(path))


def check_file(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError) -> None:
    """Raise `failure` unless a regular file is at `path`: reading anything else may block for ever."""
    kind = kind_of(path, failure)
    if kind != "file":
        raise failure(f"{shown(path)}: {_NOT_A_FILE[kind]}")


def read(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError, *, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises `failure`."""
    check_file(path, failure)
    try:
        with Path(path).open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise failure(unreadable(path, error)) from None
    if len(content) > limit:
        raise failure(f"{shown(path)}: has more than {limit:,} bytes, too many for what is wanted; check the path")
    return content


def read_pipe(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError, *, limit: int) -> bytes:
    """Return what a named pipe delivers, such as a shell's `<(command)`, up to `limit` bytes.

    Raises `failure` if nothing writes to it or its writer falls silent, instead of waiting for ever.
    """
    content = bytearray()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a writer
        try:
            while len(content) < limit:
                try:
                    if not (more := os.read(descriptor, min(1 << 20, limit - len(content)))):
                        break
                    content += more
                except BlockingIOError:
                    if not select.select([descriptor], [], [], _SILENCE)[0]:
                        reason = f"silent for {_SILENCE:.0f} seconds"
                        raise failure(f"{shown(path)}: a named pipe, {reason}; write to it, or name a file") from None
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failure(unreadable(path, error)) from None
    if not content:
        raise failure(f"{shown(path)}: a named pipe that holds nothing; write to it first, or name a file")
    return bytes(content)


def read_text(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError, *, limit: int) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark; see `read`. Raises `failure`."""
    try:
        return read(path, failure, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise failure(f"{shown(path)}: cannot be read (not UTF-8); save it as UTF-8") from None


def cache_folder() -> Path:
    """Return $CAPTIONKIT_CACHE, or captionkit's folder in the user's cache."""
    base = os.environ.get("CAPTIONKIT_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "captionkit"
