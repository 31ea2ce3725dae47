"""The real images that an export is tried on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from captionkit.data.images import Source
from captionkit.data.layouts import CaptionSet, open_dataset
from captionkit.errors import DatasetError

_PICTURES = 32


def pictures_of(place: Path | Sequence[Source] | None) -> Sequence[Source]:
    """A few images of a folder or a dataset; the sample photographs (extra `demo`) where none is named."""
    if place is None:
        from captionkit.viz.samples import sample_photos

        return [photo for _, photo in sample_photos()]
    if not isinstance(place, Path):
        return place
    dataset = open_dataset(place)
    found = [example.image for split in dataset.values() for example in islice(split, _PICTURES)][:_PICTURES]
    if not found:
        raise DatasetError(f"{place}: no images to compare on; name a folder with some")
    return found


def spread_pictures(examples: CaptionSet) -> Sequence[Source]:
    """A few images from all over a split."""
    step = max(1, len(examples) // _PICTURES)
    return [example.image for example in islice(examples, 0, step * _PICTURES, step)]
