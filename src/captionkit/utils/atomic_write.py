"""Atomic file writes (a file appears whole or not at all)."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionkit.errors import CaptionkitError
from captionkit.utils import paths

if TYPE_CHECKING:
    from PIL.Image import Image

#: written as the generator into the images and pages that captionkit draws, so that it can recognise them later
MARK = "captionkit"
#: the EXIF tag that holds it
SOFTWARE = 305

_MOST_LINKS = 40  # symbolic links followed, as in Linux
_PATIENCE = 30.0  # seconds to wait for a reader of a named pipe
_PAUSE = 0.05  # seconds between two checks for a reader
_LONGEST = 50  # characters of a file's name kept in its temporary file's, to stay within the system's limit


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically and durably; on failure the previous file is kept. Raises CaptionkitError.

    A symbolic link is kept and its target replaced. A replaced file keeps its mode and, where permissions allow, its
    owner. Pipes, devices, and /dev/stdout and the like are written to directly.
    """
    write_chunks(path, lambda: (content,))


def write_chunks(path: str | os.PathLike[str], chunks: Callable[[], Iterable[bytes]]) -> None:
    """Call `write_bytes` with what `chunks` yields, which is not held in memory. It may be called twice."""
    path = Path(path)
    try:
        if (descriptor := _descriptor(path)) is not None:
            _write_to(descriptor, chunks())
        elif is_stream(path):
            with os.fdopen(_opened(path), "wb") as stream:
                stream.writelines(chunks())
        else:
            _replace(Path(os.path.realpath(path)), chunks)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> CaptionkitError:
    """Return the error for a path that cannot be written, from the system's error."""
    return CaptionkitError(
        f"{paths.shown(path)}: cannot be written ({error.strerror}); free space or name another place"
    )


def is_stream(path: Path) -> bool:
    """Return whether `path` is a pipe or device that is written to directly, rather than a file to be replaced.

    Raises OSError if the path cannot be resolved.
    """
    if _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _descriptor(path: Path) -> int | None:
    """Return this process's file descriptor behind /dev/stdout, /dev/fd/3 or a link to one; None for an ordinary path.

    The shell may have opened a file for it; that file is written at its current position, like all other output there.
    """
    own = {f"/proc/{os.getpid()}/fd", "/dev/fd"}
    for _ in range(_MOST_LINKS):
        if path.name.isdecimal() and os.path.realpath(path.parent) in own:
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _opened(path: Path) -> int:
    """Open a device, or a named pipe once a reader appears, and return the descriptor; give up after a timeout."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo():
                raise
            if time.monotonic() > end:
                raise OSError(errno.ENXIO, f"a named pipe that nobody reads for {_PATIENCE:.0f} seconds") from None
            time.sleep(_PAUSE)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _write_to(descriptor: int, chunks: Iterable[bytes]) -> None:
    for stream in (sys.stdout, sys.stderr):  # keeps earlier output ahead of this
        with suppress(AttributeError, ValueError):  # closed, or None
            stream.flush()
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.writelines(chunks)


def _replace(path: Path, chunks: Callable[[], Iterable[bytes]]) -> None:
    """Replace `path`, which is not a link, with a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat() if path.exists() else None
    if before is not None and stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if before is not None and not os.access(path, os.W_OK):  # a rename would bypass the owner's read-only flag
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:_LONGEST]}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(chunks())
                file.flush()
                set_rights(Path(temporary), before)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        # The file itself is writable, but its folder is not, or the file is a mount of its own, as in a container.
        if before is None or error.errno not in (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS):
            raise
        with path.open("r+b") as file:
            file.writelines(chunks())
            file.truncate()


def set_rights(path: Path, before: os.stat_result | None) -> None:
    """Give a new file the mode and owner of the file that it replaces; if there was none, what the umask leaves."""
    if before is None:
        path.chmod(0o666 & ~_umask())
        return
    mode = stat.S_IMODE(before.st_mode)
    if hasattr(os, "chown"):
        with suppress(PermissionError):  # only root may change a file's owner
            os.chown(path, before.st_uid, -1)
        try:
            os.chown(path, -1, before.st_gid)
        except PermissionError:
            mode &= ~stat.S_IRWXG  # those rights would go to another group
    path.chmod(mode)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Call `write_bytes` with text in UTF-8; surrogates, as in undecodable file names, are written as \\udcXX."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """Call `write_bytes` with a Pillow image, in the format given by the file's suffix."""
    from PIL import Image as Pillow

    kind = Pillow.registered_extensions().get(Path(path).suffix.lower())
    if kind not in Pillow.SAVE:
        raise CaptionkitError(f"{path}: no known kind of image; end its name in .png or .jpg")
    buffer = io.BytesIO()
    image.save(buffer, kind, **_marked(kind))
    write_bytes(path, buffer.getvalue())


def _marked(kind: str) -> dict[str, Any]:
    """Return Pillow's save options that put the mark into an image of this format."""
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("Software", MARK)
        return {"pnginfo": info}
    if kind == "GIF":
        return {"comment": MARK.encode()}
    from PIL.Image import Exif

    exif = Exif()
    exif[SOFTWARE] = MARK
    return {"exif": exif}


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
