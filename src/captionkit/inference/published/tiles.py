"""Images in tiles, as the image processors of Idefics3 and SmolVLM make them.

An image is enlarged or reduced to a whole number of square tiles, and shown to the model tile by tile, then once more
as a whole (Laurençon et al. 2024, arXiv 2408.12637, section 3; Marafioti et al. 2025, arXiv 2504.05299).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from captionkit.errors import ModelError
from captionkit.inference.published.image_processor import ImageProcessor, read_side

#: the longest side that transformers resizes to, whatever a config asks for
_MAX_RESIZED = 4096
#: most rows, and most columns, of tiles: as many as the vocabularies of these models have names for
MAX_TILES = 6
#: what transformers takes where the file is silent
_USUAL: Mapping[str, Any] = {
    "resample": Image.Resampling.LANCZOS,
    "size": {"longest_edge": 4 * 364},
    "max_image_size": {"longest_edge": 364},
}


@dataclass(frozen=True)
class TileProcessor:
    """Resize an image to a grid of tiles (a call), and cut it into them (`tiles`)."""

    #: pixels of a tile's side
    side: int
    #: to which the longer side of an image is resized at first; None: it is not
    longest: int | None
    #: whether an image gets several tiles
    split: bool
    #: resizes an image to a tile, scales and normalises it
    as_tile: ImageProcessor

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TileProcessor:
        """Read a `preprocessor_config.json`. Raises ModelError naming what is not understood."""
        config = {**_USUAL, **{name: value for name, value in config.items() if value is not None}}
        side = _longest_edge(config, "max_image_size")
        longest = min(_longest_edge(config, "size"), _MAX_RESIZED) if config.get("do_resize", True) else None
        split = bool(config.get("do_image_splitting", True))
        if split and (longest is None or longest > side * MAX_TILES):
            raise ModelError(f"its images get more than {MAX_TILES} x {MAX_TILES} tiles of {side} pixels")
        square = {"size": {"height": side, "width": side}, "do_resize": True, "do_pad": False, "do_center_crop": False}
        return cls(side, longest, split, ImageProcessor.from_config({**config, **square}))

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Resize an RGB image to whole tiles: uint8 [rows*side, columns*side, 3]."""
        how = Image.Resampling(self.as_tile.resample)
        if self.longest is not None:
            image = image.resize(_fitted(*image.size, self.longest), how)
        size = self._whole(*image.size) if self.split else (self.side, self.side)
        return np.asarray(image.resize(size, how))

    def grid(self, pixels: np.ndarray) -> tuple[int, int]:
        """Return the rows and columns of tiles of a resized image [H,W,3]; no rows and columns for a single tile."""
        rows, columns = (length // self.side for length in pixels.shape[:2])
        return (rows, columns) if rows * columns > 1 else (0, 0)

    def tiles(self, pixels: np.ndarray) -> np.ndarray:
        """Cut a resized image [H,W,3] into what the model sees, float32 [N,3,side,side].

        That is its tiles row by row, then the whole image; of a single tile, that alone.
        """
        rows, columns = self.grid(pixels)
        side = self.side
        cut = [pixels[y * side :, x * side :][:side, :side] for y in range(rows) for x in range(columns)]
        return np.stack([self.as_tile(Image.fromarray(part)) for part in (*cut, pixels)])

    @property
    def largest_grid(self) -> tuple[int, int]:
        """Return the most rows and columns that an image can get."""
        if not self.split or self.longest is None or self.longest <= self.side:
            return 0, 0
        most = math.ceil(self.longest / self.side)
        return most, most

    def region(self, width: float, height: float) -> tuple[float, float, float, float]:
        """Return the region in pixels that the model sees of a `width` x `height` image: all of it."""
        return 0.0, 0.0, float(width), float(height)

    def _whole(self, width: int, height: int) -> tuple[int, int]:
        """Return a width and height that are multiples of a tile's side, and at least `width` and `height`."""
        aspect = width / height
        if width >= height:
            width = self._up(width)
            return width, self._up(int(width / aspect))
        height = self._up(height)
        return self._up(int(height * aspect)), height

    def _up(self, length: int) -> int:
        return math.ceil(length / self.side) * self.side


def _fitted(width: int, height: int, longest: int) -> tuple[int, int]:
    """Return a width and height in about the same proportion; the longer is `longest`, the other even."""
    aspect = width / height
    if width >= height:
        height = int(longest / aspect)
        return longest, max(height + height % 2, 1)
    width = int(longest * aspect)
    return max(width + width % 2, 1), longest


def _longest_edge(config: Mapping[str, Any], name: str) -> int:
    size = config[name]
    return read_side(size.get("longest_edge") if isinstance(size, Mapping) else size, f"longest_edge of {name}")
