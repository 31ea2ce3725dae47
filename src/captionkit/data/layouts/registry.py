"""The registry of dataset layouts, and the detection of a dataset's layout.

A layout is a module of this package with LOOKS_FOR (a description of what it looks for), `detect(place)` (returns its
caption files in a place; none if the place has another layout) and `read(place, files)` (yields a StatedImage per
image, and a Problem for what is unusable). To add a layout, write its module and register it in LAYOUTS; the first that
detects itself is used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

from captionkit.data.layouts import (
    class_folders,
    coco,
    csv,
    flickr,
    folder,
    imagefolder,
    json_records,
    kaggle,
    karpathy,
    parquet,
    shards,
    split_folders,
)
from captionkit.data.layouts.assemble import Place, StatedImage, assemble
from captionkit.data.layouts.caption_set import CaptionSet, Dataset, Problem
from captionkit.data.layouts.caption_values import CAPTION_COLUMNS
from captionkit.data.layouts.reading import read_json
from captionkit.data.layouts.unsupported import way_out
from captionkit.errors import DatasetError

LOG = logging.getLogger(__name__)


class Layout(Protocol):
    """The interface of a layout's module."""

    LOOKS_FOR: str

    def detect(self, place: Place) -> list[Path]: ...

    def read(self, place: Place, files: list[Path]) -> Iterable[StatedImage | Problem]: ...


# In the order of detection: layouts that state splits first, the plain folder last.
LAYOUTS: Mapping[str, Layout] = {
    "karpathy": karpathy,
    "seed": split_folders,
    "imagefolder": imagefolder,
    "flickr": flickr,
    "kaggle": kaggle,
    "coco": coco,
    "csv": csv,
    "json": json_records,
    "shards": shards,
    "parquet": parquet,
    "classes": class_folders,
    "folder": folder,
}


def open_dataset(path: str | os.PathLike[str], *, layout: str | None = None) -> Dataset:
    """Read the dataset in the folder `path`, or the single caption file `path` with the images beside it.

    `layout` is a name in LAYOUTS; without it, the layout is detected from the contents. Raises DatasetError.
    """
    with _readable(path):
        place = Place.of(path)
        name, files = _detect(place) if layout is None else _named(place, layout)
        dataset = assemble(place, name, LAYOUTS[name].read(place, files))
        if LAYOUTS[name] not in (folder, shards, parquet):  # `folder` reports these itself; others hold their captions
            dataset.problems.extend(_unread(place))
        if LAYOUTS[name] in (imagefolder, json_records):
            dataset.problems.extend(_unnamed(place, files, dataset))
        if LAYOUTS[name] in (imagefolder, json_records) and not any(
            e.captions for part in dataset.values() for e in part
        ):
            detail = f"names images and no captions, which are looked for under {', '.join(CAPTION_COLUMNS)}"
            dataset.problems.extend(Problem("unread file", place.name(file), detail) for file in files)
    if not dataset:
        first = "".join(f"; {problem.where}: {problem.detail}" for problem in dataset.problems[:1])
        raise DatasetError(f"{path}: names no image, read in the layout {name!r}{first}; check its contents")
    LOG.debug("%s: layout %s, %s", path, name, ", ".join(f"{len(part)} {split}" for split, part in dataset.items()))
    return dataset


def captioned_split(path: str | os.PathLike[str], split: str) -> CaptionSet:
    """Return the images of a split that have captions. Raises DatasetError if none has."""
    images = open_dataset(path).split(split)
    captioned = images.subset([place for place, example in enumerate(images) if example.captions])
    if not len(captioned):
        raise DatasetError(f"{path}: no image of split {split!r} has a caption to compare with")
    return captioned


def stated_captions(path: str | os.PathLike[str]) -> Iterator[StatedImage | Problem]:
    """Yield what the caption files at `path` state, image by image; the images themselves need not exist.

    Reads every layout that `open_dataset` detects, COCO annotations without file names, and folders of caption files
    whose images lie elsewhere. Raises DatasetError.
    """
    with _readable(path):
        place = Place.of(path)
        if place.file and (bare := coco.without_images(place.file)):
            yield from coco.entries(bare, place.file, place.name(place.file), "")
            return
        if not (known := _detected(place)) and not place.file and (texts := folder.texts(place.root)):
            yield from folder.read_texts(place.root, texts)
            return
        name, files = known or _detect(place)
        yield from LAYOUTS[name].read(place, files)


def has_captions_by_image(path: Path) -> bool:
    """Return whether a folder's captions lie in a file for each image, or in Hugging Face's metadata.jsonl."""
    with _readable(path):
        place = Place.of(path)
        known = _detected(place)
        return LAYOUTS[known[0]] in (folder, imagefolder) if known else bool(folder.texts(place.root))


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise DatasetError for a file under `path` that cannot be read."""
    try:
        yield
    except OSError as error:
        file = error.filename or path
        raise DatasetError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None


def _detected(place: Place) -> tuple[str, list[Path]] | None:
    return next(((name, files) for name, layout in LAYOUTS.items() if (files := layout.detect(place))), None)


def _detect(place: Place) -> tuple[str, list[Path]]:
    if known := _detected(place):
        return known
    if place.file and place.file.suffix.casefold() == ".json":
        read_json(place.file)  # reports malformed JSON
    named = place.file or place.root
    if place.file and (advice := way_out(place.file)):
        raise DatasetError(f"{named}: {place.file.suffix} is not read; {advice}")
    for problem in folder.unread(place.root) if not place.file else ():
        raise DatasetError(f"{named}: no captions that can be read; {problem.where}: {problem.detail}")
    looked_for = "; ".join(f"{name}: {layout.LOOKS_FOR}" for name, layout in LAYOUTS.items())
    raise DatasetError(f"{named}: no known dataset layout ({_contents(place)}); looked for {looked_for}")


def _unread(place: Place) -> Iterator[Problem]:
    """Yield a Problem for each caption file, here and in the split folders, of an unsupported format."""
    if place.file:
        return
    inner = place.split_folders("data")
    for path in sorted(path for where in (place.root, *inner) for path in where.iterdir()):
        if (advice := way_out(path)) and path.is_file():
            yield Problem("unread file", place.name(path), f"{path.suffix} is not read; {advice}")


def _unnamed(place: Place, files: list[Path], dataset: Dataset) -> Iterator[Problem]:
    """Yield a Problem for each image under the folder of a metadata file that no metadata file names."""
    stated = {str(example.image) for examples in dataset.values() for example in examples}
    lists = [file for file in files if file.stem.casefold() == "metadata"]
    for file in lists:
        own = [other.parent for other in lists if other.parent != file.parent and file.parent in other.parents]
        for image in (file.parent / item for item in folder.images(file.parent)):
            if str(image) not in stated and not any(inner in image.parents for inner in own):
                yield Problem("image without caption", place.name(image), f"{place.name(file)} does not name it")


def _named(place: Place, layout: str) -> tuple[str, list[Path]]:
    if layout not in LAYOUTS:
        near = get_close_matches(layout.casefold(), LAYOUTS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DatasetError(f"dataset layout {layout!r} is unknown; {hint}there are {', '.join(LAYOUTS)}")
    files = [place.file] if place.file else LAYOUTS[layout].detect(place)
    if not files:
        looked_for = LAYOUTS[layout].LOOKS_FOR
        raise DatasetError(f"{place.root}: not in the layout {layout!r} ({_contents(place)}); looked for {looked_for}")
    return layout, files


def _contents(place: Place) -> str:
    if place.file:
        return "neither its name nor its beginning fits one"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in place.root.iterdir())
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"it holds {', '.join(map(ascii, names[:5]))}{more}" if names else "it is empty"
