"""Captions in the metadata of images: the fields, whose text a field holds, and what may be written over.

What captionkit writes is marked: the "description writer" (photoshop:CaptionWriter, as IPTC calls it) names captionkit
and a digest of each of its texts. A text that someone has edited since then is that person's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from captionkit.errors import CaptionkitError
from captionkit.publish.merging import Change, Existing, merged
from captionkit.publish.publisher import Wording

#: fields by the names of the command line -> their XMP properties
FIELDS = {
    "description": "dc:description",
    "image-description": "tiff:ImageDescription",
    "alt": "Iptc4xmpCore:AltTextAccessibility",
    "extended": "Iptc4xmpCore:ExtDescrAccessibility",
}
#: the field that says who wrote the others, and its XMP property
WRITER, WRITER_PROPERTY = "writer", "photoshop:CaptionWriter"

#: what cameras write as a description, whatever they see
_CAMERAS = {
    *("olympus digital camera", "sony dsc", "minolta digital camera", "kodak digital still camera", "dcim", "default"),
}
_MARK = re.compile(r"(; )?captionkit \[([0-9a-f ]*)\]")


class MetadataStore(Protocol):
    """A place for the metadata of images: sidecar files, or the images themselves."""

    def read(self, image: Path) -> dict[str, str]:
        """Return the texts of an image by field, `WRITER` included. Raises CaptionkitError."""
        ...

    def write(self, image: Path, texts: Mapping[str, str | None]) -> None:
        """Change these fields and no others; None removes one. Raises CaptionkitError."""
        ...

    def place(self, image: Path) -> str:
        """Return where the texts of an image are, for messages."""
        ...


def check_fields(names: Collection[str]) -> None:
    """Raise CaptionkitError for a field that does not exist, and for none at all."""
    unknown = [name for name in names if name not in FIELDS]
    if unknown or not names:
        raise CaptionkitError(f"--fields {','.join(unknown) or 'is empty'}; the fields are {', '.join(FIELDS)}")


def own_fields(texts: Mapping[str, str]) -> list[str]:
    """Return the fields whose texts captionkit wrote and nobody has changed since."""
    found = _MARK.search(texts.get(WRITER, ""))
    digests = set(found[2].split()) if found else set()
    return [name for name in FIELDS if texts.get(name) and _digest(texts[name]) in digests]


def described_fields(*descriptions: str) -> dict[str, str]:
    """Return the fields that the first description by a person stands for, of those that older programs keep."""
    found = next((text for text in descriptions if text and text.casefold() not in _CAMERAS), "")
    return {"description": found, "image-description": found} if found else {}


class MetadataFields:
    """Writes captions into fields of metadata: a `Destination`."""

    def __init__(
        self,
        store: MetadataStore,
        *,
        fields: Collection[str] = tuple(FIELDS),
        existing: Existing = "skip",
        dry_run: bool = False,
    ) -> None:
        """Raise CaptionkitError for an unknown field."""
        check_fields(fields)
        self._store, self._fields, self._existing, self._dry_run = store, fields, existing, dry_run

    def is_open(self, image: Path, relative: Path) -> bool:
        """Return whether a caption of this image would be written; see `Destination`."""
        texts = self._store.read(image)
        return self._existing != "skip" or any(not texts.get(name, "").strip() for name in self._fields)

    def write(self, image: Path, relative: Path, wording: Wording) -> list[Change]:
        """Write the texts for an image, with captionkit's mark, and return what changed; see `Destination`."""
        before = self._store.read(image)
        wanted = {"description": wording.caption, "image-description": wording.caption}
        wanted |= {"alt": wording.alt, "extended": wording.long}
        after = {name: merged(before.get(name, ""), wanted[name], self._existing) for name in self._fields}
        texts: dict[str, str | None] = {name: text for name, text in after.items() if text is not None}
        if not texts:
            return []
        own = [before[name] for name in own_fields(before) if name not in texts]
        own += [text for name, text in texts.items() if text == wanted[name]]
        texts[WRITER] = _marked(before.get(WRITER, ""), own) or None
        if not self._dry_run:
            self._store.write(image, texts)
        place = self._store.place(image)
        return [
            Change(f"{place}: {FIELDS[name]}", before.get(name, ""), text)
            for name, text in texts.items()
            if text and name != WRITER
        ]


def clear(store: MetadataStore, image: Path, *, dry_run: bool = False) -> list[Change]:
    """Remove the texts that captionkit wrote, and its mark, and return what changed. Raises CaptionkitError."""
    before = store.read(image)
    own = own_fields(before)
    if not own and not _MARK.search(before.get(WRITER, "")):
        return []
    texts: dict[str, str | None] = dict.fromkeys(own)
    texts[WRITER] = _marked(before[WRITER], ()) or None
    if not dry_run:
        store.write(image, texts)
    return [Change(f"{store.place(image)}: {FIELDS[name]}", before[name], "") for name in own]


def _marked(writer: str, texts: Collection[str]) -> str:
    """Return the writer's name with captionkit's mark for these texts, in place of an earlier mark."""
    name = _MARK.sub("", writer).strip()
    mark = f"captionkit [{' '.join(sorted(set(map(_digest, texts))))}]" if texts else ""
    return "; ".join(part for part in (name, mark) if part)


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()[:8]
