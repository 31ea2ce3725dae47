"""Sample photos from the scikit-image package, so that nothing has to be downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from captionkit.errors import CaptionkitError

if TYPE_CHECKING:
    from PIL import Image

# The everyday photos among the images in scikit-image's wheels (0.24 to 0.26); all are in the public domain or CC0.
FILES = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def sample_photos() -> list[tuple[str, Image.Image]]:
    """Return (file name, RGB photo) of each sample. Raises CaptionkitError if scikit-image is not installed."""
    from captionkit.data.images import open_image

    # Located without importing skimage, whose own loader would download missing files.
    package = importlib.util.find_spec("skimage")
    folders = [Path(place) / "data" for place in (package and package.submodule_search_locations) or ()]
    paths = [folder / name for name in FILES for folder in folders if (folder / name).is_file()]
    if not paths:
        raise CaptionkitError("the sample photos come with scikit-image; `pip install 'captionkit[demo]'` brings it")
    return [(path.name, open_image(path)) for path in paths]
