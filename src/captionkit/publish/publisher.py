"""Writes the captions of a run to where they are wanted: text files, XMP files, the images' own metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Protocol

from captionkit.publish.merging import Change

if TYPE_CHECKING:
    from captionkit.inference.captioner import Outcome


@dataclass(frozen=True)
class Wording:
    """The texts for an image: `caption`, `alt` (a sentence for who does not see it), `long` (all that was found)."""

    caption: str
    alt: str
    long: str


class Destination(Protocol):
    """Where captions are written to, image by image. `relative` is an image's path inside the tree that is mirrored."""

    def is_open(self, image: Path, relative: Path) -> bool:
        """Return whether a caption of this image would be written. Raises CaptionkitError if nothing can be."""
        ...

    def write(self, image: Path, relative: Path, wording: Wording) -> list[Change]:
        """Write the texts for an image and return what changed. Raises CaptionkitError if that fails."""
        ...


class Publisher:
    """Several destinations as one, with the way in which captions are put into words."""

    def __init__(self, destinations: Sequence[Destination], wording: Callable[[Outcome], Wording]) -> None:
        self._destinations, self._wording = destinations, wording

    def is_open(self, image: Path, relative: Path) -> bool:
        """Return whether a caption of this image would be written anywhere; see `Destination`."""
        return any(one.is_open(image, relative) for one in self._destinations)

    def write(self, image: Path, relative: Path, outcome: Outcome) -> list[Change]:
        """Write a caption to every destination and return what changed; see `Destination`."""
        texts = self._wording(outcome)
        return [change for one in self._destinations for change in one.write(image, relative, texts)]


def inside(path: str, root: str) -> Path:
    """Return the path of a file relative to the folder `root`; its name alone if it lies elsewhere."""
    pure = PurePath(path)
    try:
        relative = pure.relative_to(root)
    except ValueError:
        relative = pure
    return Path(pure.name) if relative.is_absolute() or ".." in relative.parts else Path(relative)
