"""Select the real images that exports are compared and calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from captionkit.data.images import Source
from captionkit.data.layouts import CaptionSet, open_dataset
from captionkit.errors import DatasetError

_IMAGES = 32


def choose_images(place: Path | Sequence[Source] | None) -> Sequence[Source]:
    """Return up to 32 images of a folder or dataset; the sample photographs (extra `demo`) if `place` is None.

    Raises DatasetError if there are no images.
    """
    if place is None:
        from captionkit.viz.samples import sample_photos

        return [photo for _, photo in sample_photos()]
    if not isinstance(place, Path):
        return place
    dataset = open_dataset(place)
    found = [example.image for split in dataset.values() for example in islice(split, _IMAGES)][:_IMAGES]
    if not found:
        raise DatasetError(f"{place}: no images to compare on; name a folder with some")
    return found


def choose_evenly(examples: CaptionSet) -> Sequence[Source]:
    """Return up to 32 images, evenly spaced over a split."""
    count = min(_IMAGES, len(examples))
    return [examples[place * len(examples) // count].image for place in range(count)]
