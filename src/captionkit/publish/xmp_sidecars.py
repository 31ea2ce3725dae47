"""XMP sidecars: `IMG.HEIC.xmp` beside `IMG.HEIC`; an `IMG.xmp` that another program keeps is used instead."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from captionkit.data.images import embedded_texts
from captionkit.errors import CaptionkitError
from captionkit.publish.metadata import WRITER, described_fields, own_fields
from captionkit.publish.xmp import XmpDocument
from captionkit.utils import atomic_write, paths

MAX_BYTES = 1 << 24
"""The largest sidecar that is read, 16 MiB."""


class XmpSidecars:
    """The metadata of images in sidecar files: a `MetadataStore`."""

    def __init__(self, *, look_inside: bool = False) -> None:
        """With `look_inside`, texts that people wrote into the image itself count as the sidecar's."""
        self._look_inside = look_inside

    def path(self, image: Path) -> Path:
        """Return the sidecar of an image: the one that is there, or the one to begin."""
        own = image.with_name(f"{image.name}.xmp")
        there = [own, image.with_name(f"{image.name}.XMP"), image.with_suffix(".xmp"), image.with_suffix(".XMP")]
        return next((path for path in there if paths.exists(path)), own)

    def place(self, image: Path) -> str:
        """Return the path of an image's sidecar."""
        return str(self.path(image))

    def read(self, image: Path) -> dict[str, str]:
        """Return the texts of an image's sidecar by field; see `MetadataStore`."""
        texts = self._document(self.path(image)).texts()
        return {**_inside(image), **texts} if self._look_inside and "description" not in texts else texts

    def write(self, image: Path, texts: Mapping[str, str | None]) -> None:
        """Change fields of an image's sidecar; one that captionkit began is removed when nothing is left in it."""
        path = self.path(image)
        document = self._document(path)
        document.change(texts)
        if document.is_own_shell:
            paths.real(path).unlink(missing_ok=True)
        else:
            atomic_write.write_bytes(path, document.to_bytes())

    def _document(self, path: Path) -> XmpDocument:
        if not paths.exists(path):
            return XmpDocument()
        content = paths.read(path, limit=MAX_BYTES)
        try:
            return XmpDocument(content if content.strip() else None)
        except CaptionkitError as error:
            raise CaptionkitError(f"{paths.shown(path)}: {error}") from None


def _inside(image: Path) -> dict[str, str]:
    """Return the texts in an image that captionkit did not write; what cannot be read holds none."""
    texts: dict[str, str] = {}
    with suppress(CaptionkitError):
        packet, described = embedded_texts(image)
        texts = described_fields(described)
        inside = XmpDocument(packet).texts() if packet.strip() else {}
        own = own_fields(inside)
        texts |= {name: text for name, text in inside.items() if name not in (*own, WRITER)}
    return texts
