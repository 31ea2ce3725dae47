"""COCO captions JSON: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.

https://cocodataset.org/#format-data. The split is taken from the file's name: captions_train2014.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captionkit.data.layouts import json_records
from captionkit.data.layouts.assemble import Place, StatedImage
from captionkit.data.layouts.caption_set import Problem, is_id, split_of_file, whole
from captionkit.data.layouts.caption_values import shown
from captionkit.data.layouts.reading import peek, read_json
from captionkit.errors import DatasetError

LOOKS_FOR = 'captions_*.json with "images" and "annotations", here or in annotations/'


def detect(place: Place) -> list[Path]:
    """Return COCO's caption files, without its instances_*.json and results files."""
    return [file for file in place.files("*.json") if _holds_captions(file)]


def read(place: Place, files: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images of each file, in its order."""
    for file in files:
        content, source, split = read_json(file), place.name(file), split_of_file(file.stem) or ""
        if _by_file_names(content):
            yield from json_records.entries(content, file, source, split)
        else:
            yield from entries(_with_images(content), file, source, split)


def without_images(file: Path) -> Any:
    """Return the content of an annotations-only file, with the images that they name added; None for any other file."""
    head = peek(file)[0]
    if '"annotations"' not in head or ('"images"' in head and '"file_name"' in head):
        return None
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list) or _by_file_names(content):
        return None
    listed = content.get("images")
    return _with_images({**content, "images": None}) if not listed else {**content, "images": _named(listed, "id")}


def _with_images(content: Any) -> Any:
    """Add an image for each id in the annotations to COCO content that has annotations but no images."""
    if not isinstance(content, dict) or content.get("images") or not isinstance(content.get("annotations"), list):
        return content
    return {**content, "images": _named(content["annotations"], "image_id")} if content["annotations"] else content


def _named(listed: Any, name: str) -> list[dict[str, Any]]:
    ids: dict[str, Any] = {}
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict) and is_id(known := whole(entry.get(name))):
            ids.setdefault(str(known), known)
    return [{"id": known, "file_name": str(known)} for known in ids.values()]


def _by_file_names(content: Any) -> bool:
    """Return whether the captions are keyed by file names, in "images" or "annotations", rather than by image ids."""
    if not isinstance(content, dict):
        return False
    listed = content.get("annotations") or content.get("images")
    first = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(first, dict) or is_id(whole(first.get("image_id"))):
        return False
    row = json_records.record(first, "")
    return not isinstance(row, Problem) and bool(row.captions)


def entries(
    content: Any, file: Path, source: str, split: str, folder: Path | None = None
) -> Iterator[StatedImage | Problem]:
    """Yield the images of parsed COCO `content`, which lie in `folder` if it is given."""
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DatasetError(
            f'{file}: not COCO captions JSON, which has the lists "images" and "annotations"; name its layout'
        )
    captions: dict[str, list[object]] = {}
    yield from collect_captions(content.get("annotations", []), file, source, captions)
    ids = set()
    for index, image in enumerate(images):
        known: Any = whole(image.get("id")) if isinstance(image, dict) else None
        if is_id(known) and isinstance(image.get("file_name"), str):
            key = str(known)
            ids.add(key)
            yield StatedImage(known, image["file_name"], captions.get(key, []), split, source, folder)
        else:
            yield Problem("malformed entry", f"{source}: images[{index}]", 'it needs an "id" and a "file_name"')
    for key, orphans in captions.items():
        if key not in ids:
            for caption in orphans:
                yield Problem("caption without image", f"image_id {key}", f"{source}: {shown(caption)}")


def collect_captions(annotations: Any, file: Path, source: str, captions: dict[str, list[object]]) -> Iterator[Problem]:
    """Add the captions of COCO `annotations` to `captions`, keyed by image id as text, since files mix 42 and "42"."""
    if not isinstance(annotations, list):
        raise DatasetError(f'{file}: "annotations" is not a list of {{"image_id", "caption"}}; fix the file')
    for index, annotation in enumerate(annotations):
        known = whole(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if is_id(known) and "caption" in annotation:
            caption = annotation["caption"]
            captions.setdefault(str(known), []).extend(caption if isinstance(caption, list) else [caption])
        else:
            where = f"{source}: annotations[{index}]"
            yield Problem("malformed entry", where, 'it needs an "image_id" and a "caption"')


def _holds_captions(file: Path) -> bool:
    head, tail = peek(file)
    return ('"images"' in head or '"annotations"' in head) and (
        '"caption"' in head or '"caption"' in tail or "captions" in file.stem.casefold()
    )
