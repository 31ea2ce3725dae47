"""Dataset layouts: read captioned images on disk into caption sets.

    dataset = open_dataset("flickr8k")      # the layout is detected; layout="coco" names it
    train = dataset.split("train")          # CaptionSet: a sequence of Example(id, image, captions)
    print(inspect_dataset(dataset))         # counts, lengths, vocabulary, problems

Images are located, not opened. What cannot be used (a missing image, an empty caption, a path outside the root) is left
out and listed in `dataset.problems`; a file that cannot be read at all raises DatasetError.

A layout is a module here, listed in `registry.LAYOUTS`.
"""

from __future__ import annotations

from captionkit.data.layouts.caption_set import CaptionSet, Dataset, Example, Problem
from captionkit.data.layouts.inspect import DatasetReport, inspect_dataset
from captionkit.data.layouts.registry import (
    LAYOUTS,
    captioned_split,
    has_captions_by_image,
    open_dataset,
    stated_captions,
)

__all__ = [
    "LAYOUTS",
    "CaptionSet",
    "Dataset",
    "DatasetReport",
    "Example",
    "Problem",
    "captioned_split",
    "has_captions_by_image",
    "inspect_dataset",
    "open_dataset",
    "stated_captions",
]
