"""One folder per split, each with captions.json and image/000000000042.jpg: data/{train,val,test}/captions.json.

captions.json is COCO captions JSON with or without its "images", a list of {"image_id", "caption"}, or {"42": ["a
caption"]}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captionkit.data.layouts import coco
from captionkit.data.layouts.assemble import Place, StatedImage
from captionkit.data.layouts.caption_set import Problem, split_of_folder
from captionkit.data.layouts.reading import keep_repeated, read_json
from captionkit.errors import DatasetError

LOOKS_FOR = "captions.json beside image/, in train/, val/, test/ (here or in data/) or here"


def detect(place: Place) -> list[Path]:
    """Return the captions.json of each split's folder, or the one beside image/ here."""
    if place.file:
        files = place.files("captions.json")
    else:
        files = [folder / "captions.json" for folder in (place.root, *place.split_folders("data"))]
    return [file for file in files if file.is_file() and (file.parent / "image").is_dir()]


def read(place: Place, files: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images of each split, in the order in which captions.json first names them."""
    for file in files:
        source, folder = place.name(file), file.parent / "image"
        split = split_of_folder(file.parent.name) or ""
        content = read_json(file, pairs_hook=keep_repeated)
        if isinstance(content, dict) and "images" in content:
            yield from coco.entries(content, file, source, split, folder)
            continue
        captions: dict[str, list[object]] = {}
        yield from _collect_captions(content, file, source, captions)
        for key, texts in captions.items():
            number = int(key) if re.fullmatch("[0-9]{1,18}", key) else None
            name = key if number is None else f"{number:012d}.jpg"
            yield StatedImage(key if number is None else number, name, texts, split, source, folder)


def _collect_captions(content: Any, file: Path, source: str, captions: dict[str, list[object]]) -> Iterator[Problem]:
    if isinstance(content, dict) and "annotations" in content:
        content = content["annotations"]
    if isinstance(content, list) and not (content and isinstance(content[0], tuple)):
        yield from coco.collect_captions(content, file, source, captions)
        return
    if not isinstance(content, (dict, list)):
        raise DatasetError(f'{file}: neither COCO captions JSON nor {{"42": ["a caption"]}}; name its layout')
    for key, texts in content.items() if isinstance(content, dict) else content:
        if key in captions:
            yield Problem("duplicate id", key, f"{source}: the key occurs more than once; its captions are joined")
        captions.setdefault(key, []).extend(texts if isinstance(texts, list) else [texts])
