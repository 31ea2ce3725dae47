"""Karpathy's dataset_*.json: {"images": [{"split", "filename", "filepath", "sentences": [{"raw"}]}]}.

A sentence may also have only "tokens", or be a plain text.

https://cs.stanford.edu/people/karpathy/deepimagesent/ (COCO, Flickr8k, Flickr30k); RSICD and UCM-captions use it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captionkit.data.layouts.assemble import Place, StatedImage
from captionkit.data.layouts.caption_set import Problem, is_id, whole
from captionkit.data.layouts.reading import peek, read_json
from captionkit.errors import DatasetError

LOOKS_FOR = 'dataset_*.json with "images" that have "sentences"'


def detect(place: Place) -> list[Path]:
    """Return the JSON files whose beginning shows images with sentences."""
    heads = ((file, peek(file)[0]) for file in place.files("*.json"))
    return [file for file, head in heads if '"images"' in head and '"sentences"' in head]


def read(place: Place, files: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images of each file, in its order; "restval" counts as train."""
    for file in files:
        content, source = read_json(file), place.name(file)
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, list):
            raise DatasetError(f'{file}: not a Karpathy dataset JSON, which has the list "images"; name its layout')
        for index, image in enumerate(images):
            yield _entry(image, f"{source}: images[{index}]", source)


def _entry(image: Any, where: str, source: str) -> StatedImage | Problem:
    if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
        return Problem("malformed entry", where, 'it needs a "filename"')
    sentences = image.get("sentences", [])
    if not isinstance(sentences, list) or not all(isinstance(sentence, (dict, str)) for sentence in sentences):
        return Problem("malformed entry", where, '"sentences" is not a list of {"raw"} or {"tokens"}')
    name, folder = image["filename"], image.get("filepath")
    ids = [known for key in ("cocoid", "imgid") if is_id(known := whole(image.get(key)))]
    return StatedImage(
        id=ids[0] if ids else name,
        file_name=f"{folder}/{name}" if isinstance(folder, str) and folder else name,
        captions=sentences,
        split=str(image.get("split") or ""),
        source=source,
    )
