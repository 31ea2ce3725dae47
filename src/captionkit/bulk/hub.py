"""Datasets of the Hugging Face Hub as inputs (extra: bulk): hf:OWNER/NAME, or one split of it, hf:OWNER/NAME:train.

The library `datasets` downloads them once, and then reads any row from disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from captionkit.bulk.items import Item, Place
from captionkit.bulk.tables import image_column, place_of
from captionkit.errors import CaptionkitError, ImageError, one_line


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset: a name on the Hub or a folder, and a split; "" for all of them."""

    name: str
    split: str = ""


@dataclass(frozen=True, slots=True)
class HubRow:
    """Row `index` of a split, counted from 0."""

    dataset: HubDataset
    index: int
    column: str

    def locate(self) -> Place:
        """Return where the image is. Raises ImageError if the row has none."""
        name = f"hf:{self.dataset.name}:{self.dataset.split}#{self.index}"
        value = _column(self.dataset, self.column)[self.index][self.column]
        if isinstance(value, dict) and not value.get("bytes") and isinstance(value.get("path"), str):
            return value["path"]  # a file of the library's own cache
        if isinstance(value, str | dict | bytes | None):
            return place_of(value, name, None)
        raise ImageError(f"{name}: the row has no image ({type(value).__name__}); name the column by --image-column")


def parse(named: str) -> HubDataset:
    """Return the dataset that `hf:NAME` or `hf:NAME:SPLIT` names. Raises CaptionkitError."""
    name, _, split = named.removeprefix("hf:").partition(":")
    if not name:
        raise CaptionkitError(f"{named}: names no dataset; write hf:OWNER/NAME, or hf:OWNER/NAME:SPLIT")
    return HubDataset(name, split)


def items(dataset: HubDataset, column: str | None) -> Iterator[Item]:
    """Yield the rows of a dataset, split by split. Raises CaptionkitError if it cannot be had."""
    splits = _load(dataset.name)
    if dataset.split and dataset.split not in splits:
        raise CaptionkitError(f"hf:{dataset.name}: has no split {dataset.split!r}; it has {', '.join(splits)}")
    for split in [dataset.split] if dataset.split else splits:
        table = splits[split]
        try:
            chosen = image_column(table.features.arrow_schema, column)
        except CaptionkitError as error:
            raise CaptionkitError(f"hf:{dataset.name}: {error}") from None
        known = (table.info.splits or {}).get(split)  # the same on every machine, unlike the library's fingerprints
        size = known.num_bytes if known else len(table)
        for index in range(len(table)):
            row = HubRow(HubDataset(dataset.name, split), index, chosen)
            name = f"{split}#{index}"
            yield Item(name, f"hf:{dataset.name}:{name}", row, size, sidecar=f"{split}/{index:06d}.txt")


@lru_cache(1)
def _load(name: str) -> dict[str, Any]:
    try:
        import datasets
    except ModuleNotFoundError:
        raise CaptionkitError(f"hf:{name}: datasets is not installed; run `pip install 'captionkit[bulk]'`") from None
    try:
        return dict(datasets.load_dataset(name))
    except Exception as error:  # the Hub and each kind of dataset have exceptions of their own
        raise CaptionkitError(f"hf:{name}: cannot be had ({one_line(error)}); check the name and log in") from None


@lru_cache(4)
def _column(dataset: HubDataset, column: str) -> Any:
    """Return a split with images as they are stored, not decoded."""
    from datasets import Image

    table = _load(dataset.name)[dataset.split].select_columns([column])
    return table.cast_column(column, Image(decode=False)) if isinstance(table.features[column], Image) else table
