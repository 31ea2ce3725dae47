"""COCO captions JSON: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.

https://cocodataset.org/#format-data. The split is read from the file's name: captions_train2014.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captionkit.datasets.assemble import Entry, Place
from captionkit.datasets.core import Problem, is_id, split_of_file
from captionkit.datasets.reading import peek, read_json
from captionkit.errors import DatasetError

LOOKS_FOR = 'captions_*.json with "images" and "annotations", here or in annotations/'


def detect(place: Place) -> list[Path]:
    """COCO's caption files; its instances_*.json and results files are not among them."""
    return [file for file in place.files("*.json") if _holds_captions(file)]


def read(place: Place, files: list[Path]) -> Iterator[Entry | Problem]:
    """The images of each file, in its order."""
    for file in files:
        split = split_of_file(file.stem) or ""
        yield from entries(read_json(file), file, place.name(file), split)


def without_images(file: Path) -> Any:
    """The content of a file of annotations alone, completed by the images that they name; None for any other file."""
    head = peek(file)[0]
    if '"annotations"' not in head or ('"images"' in head and '"file_name"' in head):
        return None
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        return None
    listed = content.get("images") or content["annotations"]
    ids: dict[str, Any] = {}
    for entry in listed if isinstance(listed, list) else ():
        known = entry.get("id" if listed is content.get("images") else "image_id") if isinstance(entry, dict) else None
        if is_id(known):
            ids.setdefault(str(known), known)
    named = [{"id": known, "file_name": str(known)} for known in ids.values()]
    return {"images": named, "annotations": content["annotations"]}


def entries(content: Any, file: Path, source: str, split: str, folder: Path | None = None) -> Iterator[Entry | Problem]:
    """The images of a parsed COCO `content`, which lie in `folder` if it is given."""
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DatasetError(
            f'{file}: not COCO captions JSON, which has the lists "images" and "annotations"; name its layout'
        )
    captions: dict[str, list[object]] = {}
    yield from collect_captions(content.get("annotations", []), file, source, captions)
    ids = set()
    for index, image in enumerate(images):
        if isinstance(image, dict) and is_id(image.get("id")) and isinstance(image.get("file_name"), str):
            key = str(image["id"])
            ids.add(key)
            yield Entry(image["id"], image["file_name"], captions.get(key, []), split, source, folder)
        else:
            yield Problem("malformed entry", f"{source}: images[{index}]", 'it needs an "id" and a "file_name"')
    for key, orphans in captions.items():
        if key not in ids:
            for caption in orphans:
                yield Problem("caption without image", f"image_id {key}", f"{source}: {str(caption)[:80]!a}")


def collect_captions(annotations: Any, file: Path, source: str, captions: dict[str, list[object]]) -> Iterator[Problem]:
    """Add the captions of COCO `annotations` to `captions`, by image id as text: files mix 42 and "42"."""
    if not isinstance(annotations, list):
        raise DatasetError(f'{file}: "annotations" is not a list of {{"image_id", "caption"}}; mend the file')
    for index, annotation in enumerate(annotations):
        if isinstance(annotation, dict) and is_id(annotation.get("image_id")) and "caption" in annotation:
            captions.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
        else:
            where = f"{source}: annotations[{index}]"
            yield Problem("malformed entry", where, 'it needs an "image_id" and a "caption"')


def _holds_captions(file: Path) -> bool:
    head, tail = peek(file)
    return ('"images"' in head or '"annotations"' in head) and (
        '"caption"' in head or '"caption"' in tail or "captions" in file.stem.casefold()
    )
