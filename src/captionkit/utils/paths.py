"""Paths that a user names: what lies there, told in one line whatever the system answers.

`Path.exists` and its kin raise of a folder that may not be entered and of a name that is too long, and what opens a
named pipe may wait for ever. So whatever is named from outside is asked about, and read, through here.
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

_SHOWN = 100  # characters of a path that messages show, at most
_SILENCE = 30.0  # seconds without a byte, after which a pipe is given up
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
    errno.ELOOP: "its links lead in a circle; make them anew",
    errno.EISDIR: "name the file in it",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
}


def shown(path: AnyPath) -> str:
    """A path as messages show it: printable, and without its middle where it is long."""
    name = os.fsdecode(path)
    if len(name) > _SHOWN:
        name = f"{name[: _SHOWN // 2]}...{name[-_SHOWN // 2 :]}"
    return name if name and name.isprintable() else repr(name)


def unreadable(path: AnyPath, error: OSError | ValueError) -> str:
    """The message for a path that the system refuses: what, why, and the way out."""
    if isinstance(error, OSError):
        way_out = _WAYS_OUT.get(error.errno or 0, "check the path and its disk")
        return f"{shown(path)}: cannot be read ({error.strerror or error}); {way_out}"
    return f"{shown(path)}: cannot be the name of a file ({error}); check it"


def kind_of(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError) -> Kind | None:
    """What lies at `path`, links followed; None where nothing does.

    Raises `failure` where that cannot be told (a closed folder, a name too long, links in a circle), and of "", which
    pathlib takes for the current folder and which mostly is a shell variable that was never set.
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
    """Whether anything lies at `path`. Raises `failure` as `kind_of` does."""
    return kind_of(path, failure) is not None


def is_file(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError) -> bool:
    """Whether a plain file lies at `path`. Raises `failure` as `kind_of` does."""
    return kind_of(path, failure) == "file"


def is_folder(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError) -> bool:
    """Whether a folder lies at `path`. Raises `failure` as `kind_of` does."""
    return kind_of(path, failure) == "folder"


def real(path: AnyPath) -> Path:
    """Where a path leads, as far as links can be followed; Path.resolve raises of links in a circle."""
    return Path(os.path.realpath(path))


def check_file(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError) -> None:
    """Raises `failure` unless a plain file lies at `path`: reading anything else may never end."""
    kind = kind_of(path, failure)
    if kind != "file":
        raise failure(f"{shown(path)}: {_NOT_A_FILE[kind]}")


def read(path: AnyPath, failure: type[CaptionkitError] = CaptionkitError, *, limit: int) -> bytes:
    """The content of a plain file of at most `limit` bytes. Raises `failure`."""
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
    """What comes out of a named pipe, such as a shell makes of `<(command)`, up to `limit` bytes.

    Raises `failure` where nobody writes to it, or its writer falls silent: it is not waited for without end.
    """
    content = bytearray()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # which does not wait for a writer
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
    """`read` for text in UTF-8, with or without a byte order mark. Raises `failure`."""
    try:
        return read(path, failure, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise failure(f"{shown(path)}: cannot be read (not UTF-8); save it as UTF-8") from None
