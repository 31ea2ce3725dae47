"""Writing that is never half done: a file appears whole or not at all; and files inside an archive."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionkit.errors import CaptionkitError
from captionkit.utils import paths

if TYPE_CHECKING:
    from PIL.Image import Image

#: file names that are taken for images, in folders, datasets and archives alike
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)

#: what images and pages that captionkit draws carry as the name of their maker, so that it knows them again
MARK = "captionkit"
#: the tag of EXIF that holds it
SOFTWARE = 305

_MOST_LINKS = 40  # that are followed, as by Linux
_PATIENCE = 30.0  # seconds that a named pipe may be without a reader
_PAUSE = 0.05  # seconds between two looks whether it has one
_LONGEST = 50  # letters of a file's name in that of its temporary file, so that the system takes it


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside an archive that holds it as it is: `size` bytes from byte `offset` of `archive` on."""

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read(self) -> bytes:
        """Its content, at one read. Raises OSError, or ValueError where the archive has become shorter."""
        with self.archive.open("rb", buffering=0) as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise ValueError(f"{self.archive.name} ends before it; it has changed since it was opened")
        return content


def cache_folder() -> Path:
    """$CAPTIONKIT_CACHE, or captionkit's folder in the user's cache."""
    base = os.environ.get("CAPTIONKIT_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "captionkit"


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically and durably; a failure leaves what was there before. Raises CaptionkitError.

    What a symbolic link leads to is replaced, not the link; a file that is replaced keeps its mode, and its owner where
    that may be kept. Pipes, devices and what /dev/stdout and its like stand for are written straight to.
    """
    path = Path(path)
    try:
        if (descriptor := _descriptor(path)) is not None:
            _write_to(descriptor, content)
        elif is_stream(path):
            with os.fdopen(_opened(path), "wb") as stream:
                stream.write(content)
        else:
            _replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> CaptionkitError:
    """The error for a place that cannot be written, by what the system says of it."""
    return CaptionkitError(
        f"{paths.shown(path)}: cannot be written ({error.strerror}); free space or name another place"
    )


def is_stream(path: Path) -> bool:
    """Whether what is there is no file to be replaced, but a pipe or a device that takes what is written to it.

    Raises OSError where the path cannot be followed.
    """
    if _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _descriptor(path: Path) -> int | None:
    """The descriptor of this process that /dev/stdout, /dev/fd/3 or a link to such stands for; None for a usual path.

    A shell may have opened a file for it: that is written on where it stands, as everything else that goes there is.
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
    """The descriptor of a device, or of a named pipe as soon as somebody reads from it, within some time."""
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


def _write_to(descriptor: int, content: bytes) -> None:
    for stream in (sys.stdout, sys.stderr):  # what was printed before comes before
        with suppress(AttributeError, ValueError):  # closed, or none at all
            stream.flush()
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)


def _replace(path: Path, content: bytes) -> None:
    """Put a new file in the place of `path`, which is no link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat() if path.exists() else None
    if before is not None and stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if before is not None and not os.access(path, os.W_OK):  # a new name for it would get round its owner's wish
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:_LONGEST]}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                set_rights(Path(temporary), before)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        # Only the file is ours to write: its folder takes no other, or it is mounted by itself, as into a container.
        if before is None or error.errno not in (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS):
            raise
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()


def set_rights(path: Path, before: os.stat_result | None) -> None:
    """Give a new file the mode and the owner of the one that it replaces; of none, what the umask leaves."""
    if before is None:
        path.chmod(0o666 & ~_umask())
        return
    mode = stat.S_IMODE(before.st_mode)
    if hasattr(os, "chown"):
        with suppress(PermissionError):  # only root may give a file to somebody else
            os.chown(path, before.st_uid, -1)
        try:
            os.chown(path, -1, before.st_gid)
        except PermissionError:
            mode &= ~stat.S_IRWXG  # which would be another group's
    path.chmod(mode)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """`write_bytes` for text, in UTF-8; bytes of a file name that are none are written as \\udcXX."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """`write_bytes` for a Pillow image, in the format that the file's name asks for."""
    from PIL import Image as Pillow

    kind = Pillow.registered_extensions().get(Path(path).suffix.lower())
    if kind not in Pillow.SAVE:
        raise CaptionkitError(f"{path}: no known kind of image; end its name in .png or .jpg")
    buffer = io.BytesIO()
    image.save(buffer, kind, **_marked(kind))
    write_bytes(path, buffer.getvalue())


def _marked(kind: str) -> dict[str, Any]:
    """What Pillow takes to leave the mark in an image of this kind."""
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        told = PngInfo()
        told.add_text("Software", MARK)
        return {"pnginfo": told}
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
