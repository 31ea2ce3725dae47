"""Files stored inside an archive, read in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A file stored uncompressed inside an archive: `size` bytes from byte `offset` of `archive`."""

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read(self) -> bytes:
        """Read the content in one call. Raises OSError, or ValueError if the archive has been truncated."""
        with self.archive.open("rb", buffering=0) as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise ValueError(f"{self.archive.name} ends before it; it has changed since it was opened")
        return content
