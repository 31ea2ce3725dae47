"""The images that benches caption: made up, or found in a folder."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from captionkit.data.images import SUFFIXES
from captionkit.errors import CaptionkitError


def photo_like(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """An image of photo-like statistics: coarse structure with fine noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(size, 3)
    noise = generator.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def made_photos(folder: Path, count: int, size: tuple[int, int] = (640, 480)) -> list[Path]:
    """`count` different ones as JPEG files of quality 90 in `folder`."""
    paths = [folder / f"photo{seed:02}.jpg" for seed in range(count)]
    for seed, path in enumerate(paths):
        photo_like(size, seed).save(path, quality=90)
    return paths


def found_photos(folder: Path, count: int) -> list[Path]:
    """The first `count` images of `folder` by name, from the first again where it has fewer."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise CaptionkitError(f"{folder}: no images found; name a folder with JPEG or PNG files")
    return list(islice(cycle(paths), count))
