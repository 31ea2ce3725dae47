"""Writing that is never half done: a file or folder appears whole or not at all; and files inside an archive."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from captionkit.errors import CaptionkitError

if TYPE_CHECKING:
    from PIL.Image import Image

#: file names that are taken for images, in folders, datasets and archives alike
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)


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
    """Write a file atomically and durably; a failure leaves what was there before. Raises CaptionkitError."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CaptionkitError(
            f"{path}: cannot be written ({error.strerror}); free space or name another place"
        ) from None


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """`write_bytes` for text, in UTF-8; bytes of a file name that are none are written as \\udcXX."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """`write_bytes` for a Pillow picture, in the format that the file's name asks for."""
    from PIL import Image as Pillow

    kind = Pillow.registered_extensions().get(Path(path).suffix.lower())
    if kind not in Pillow.SAVE:
        raise CaptionkitError(f"{path}: no known kind of picture; end its name in .png or .jpg")
    buffer = io.BytesIO()
    image.save(buffer, kind)
    write_bytes(path, buffer.getvalue())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, replacing what was there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    except OSError as error:
        raise CaptionkitError(
            f"{path}: cannot be written ({error.strerror}); free space or name another place"
        ) from None
    old = _set_aside(path)
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Bring back what `new_folder` had set aside if it was killed between its two renames."""
    old = _set_aside(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)


def _set_aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
