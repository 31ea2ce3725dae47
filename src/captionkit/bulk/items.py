"""Images to caption, as small values that travel between processes: where an image's bytes are, not the bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from captionkit.bulk.remote import RemoteMember, read_remote
from captionkit.data.images import MAX_BYTES, UNOPENED
from captionkit.errors import ImageError
from captionkit.utils import paths
from captionkit.utils.archive import ArchiveMember

#: fetches an image by its URL; raises CaptionkitError
Fetch = Callable[[str], bytes]


class Row(Protocol):
    """A row of a table, which holds an image's bytes or names its file."""

    def locate(self) -> Place:
        """Return where the image is. Raises ImageError if the row has none."""
        ...


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at an address that fsspec understands, such as s3://bucket/a.jpg."""

    address: str


@dataclass(frozen=True, slots=True)
class Url:
    """An image on the web, fetched only if the user allows it."""

    address: str


#: where an image's bytes are: the path of a file, a file in an archive, the bytes themselves, ...
Place = str | bytes | ArchiveMember | RemoteMember | Remote | Url
Source = Place | Row


@dataclass(frozen=True, slots=True)
class Item:
    """An image of the input.

    id: its path within the input, with "/" on every system; no two images have the same one.
    path: its path or address as a user would write it.
    source: where its bytes are.
    size: bytes of its file, or a number that changes with it; tells whether an input has changed.
    error: why it cannot be captioned, if that is known before it is read.
    sidecar: the path of its caption's text file within the output.
    extras: the other files of its sample, in a tar shard.
    """

    id: str
    path: str
    source: Source
    size: int
    error: str = ""
    sidecar: str = ""
    extras: tuple[ArchiveMember | RemoteMember, ...] = ()


def locate(item: Item) -> Place:
    """Return where an item's bytes are, looking up its row in a table. Raises ImageError."""
    if isinstance(item.source, str | bytes | ArchiveMember | RemoteMember | Remote | Url):
        return item.source
    return item.source.locate()


def read_bytes(place: Place, fetch: Fetch | None) -> bytes:
    """Return the bytes of an image's file, at most MAX_BYTES of them. Raises ImageError, and what `fetch` raises."""
    if isinstance(place, bytes):
        return place
    if isinstance(place, Url):
        if fetch is None:
            raise ImageError(f"{paths.shown(place.address)}: a URL, which is not fetched; allow it by --allow-urls")
        return fetch(place.address)
    if isinstance(place, Remote):
        return read_remote(place.address, limit=MAX_BYTES)
    if isinstance(place, str):
        return paths.read(place, ImageError, limit=MAX_BYTES)
    if place.size > MAX_BYTES:
        raise ImageError(f"{place}: has more than {MAX_BYTES:,} bytes; make it smaller")
    try:
        return place.read()
    except (OSError, ValueError) as error:
        raise ImageError(f"{place}: cannot be read ({error}); check the archive") from None


def unopened(path: str, suffix: str) -> str:
    """Return why a file of a kind that is not opened cannot be captioned, and what converts it."""
    return f"{paths.shown(path)}: {suffix} images are not opened; convert them to JPEG with {UNOPENED[suffix]}"
