"""A small real dataset: the sample photographs of scikit-image, with captions written for captionkit's tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from captionkit.viz.samples import sample_photos

CAPTIONS = {
    "astronaut.png": [
        "A smiling woman in an orange space suit stands before a flag.",
        "An astronaut in an orange suit is smiling at the camera.",
        "A woman astronaut poses with a model of the space shuttle.",
    ],
    "camera.png": [
        "A man in a dark coat looks through a camera on a tripod.",
        "A photographer takes images in a field of grass.",
        "A man is filming with a camera outdoors.",
    ],
    "chelsea.png": [
        "A close-up of a tabby cat's face.",
        "A cat with green eyes looks at something.",
        "The striped cat is lying down and looking to the side.",
    ],
    "coffee.png": [
        "A cup of coffee with a spoon on a saucer.",
        "An espresso stands on a wooden table.",
        "A small cup of black coffee sits on a table beside a spoon.",
    ],
    "motorcycle_left.png": [
        "A red motorcycle is parked in a garage.",
        "A motorcycle stands indoors on its stand.",
        "A motorbike in a workshop full of tools.",
    ],
    "rocket.jpg": [
        "A rocket stands on its launch pad in the dark.",
        "A white rocket is ready for launch beside a tower.",
        "A tall rocket is on the pad at night.",
    ],
}


def make_photos(root: Path, caption: Callable[[Image.Image], Sequence[str]] | None = None) -> Path:
    """The photographs as a COCO validation split in `root`, with `CAPTIONS` or those that `caption` gives.

    CaptionkitError where scikit-image is not installed.
    """
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (name, photo) in enumerate(sample_photos(), start=101):
        photo.save(root / "images" / name)
        images.append({"id": number, "file_name": name})
        written = caption(photo) if caption else CAPTIONS[name]
        annotations += [{"id": len(annotations) + n, "image_id": number, "caption": c} for n, c in enumerate(written)]
    content = {"info": {}, "licenses": [], "type": "captions", "images": images, "annotations": annotations}
    (root / "captions_val.json").write_text(json.dumps(content), encoding="utf-8")
    return root
