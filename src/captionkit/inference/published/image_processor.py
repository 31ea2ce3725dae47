"""Preprocessing as a published model's `preprocessor_config.json` asks: the pixels that transformers would make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from captionkit.data.images import MAX_SIDE
from captionkit.errors import ModelError

#: what transformers takes where the file is silent (IMAGENET_STANDARD_MEAN, ..._STD)
_HALF = (0.5, 0.5, 0.5)
#: image processors whose single `size` is that of the shorter side; for all others it is a square's
_SHORTEST = ("CLIP", "ConvNext", "ChineseCLIP")
_BILINEAR = 2  # PIL.Image.Resampling


@dataclass(frozen=True)
class ImageProcessor:
    """Resize, crop, scale, normalise and pad, each as far as it is asked for. Sizes are (height, width)."""

    size: tuple[int, int] | None
    shortest: int | None = None
    longest: int | None = None
    crop: tuple[int, int] | None = None
    padded: tuple[int, int] | None = None
    resample: int = _BILINEAR
    scale: float | None = 1 / 255
    mean: tuple[float, ...] | None = _HALF
    std: tuple[float, ...] = _HALF

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageProcessor:
        """Read a `preprocessor_config.json`. Raises ModelError naming what is not understood."""
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
        size, shortest, longest = None, None, None
        if config.get("do_resize", True):
            size, shortest, longest = _sizes(config.get("size", 224), kind)
        crop = _pair(config.get("crop_size", 224), "crop_size") if config.get("do_center_crop") else None
        if not (size or crop):
            raise ModelError("the images get no fixed size, which captioning in batches needs")
        normalize = config.get("do_normalize", True)
        resample = config.get("resample", _BILINEAR)
        if resample not in range(6):
            raise ModelError(f"resample is {resample!r}; a number from 0 to 5 is known")
        return cls(
            size,
            shortest,
            longest,
            crop,
            _pair(config["pad_size"], "pad_size") if config.get("do_pad") and config.get("pad_size") else None,
            resample,
            _number(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else None,
            _three(config.get("image_mean", _HALF)) if normalize else None,
            _three(config.get("image_std", _HALF)),
        )

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Preprocess an RGB image: float32 [3, height, width]."""
        if wanted := self._resized(image.height, image.width):
            image = image.resize(wanted[::-1], Image.Resampling(self.resample))
        pixels = np.asarray(image)
        if self.crop:
            pixels = _centre(pixels, *self.crop)
        values = pixels.transpose(2, 0, 1).astype(np.float32)  # [H,W,3] -> [3,H,W]
        if self.scale is not None:
            values *= np.float32(self.scale)
        if self.mean is not None:
            mean, std = (np.array(three, np.float32)[:, None, None] for three in (self.mean, self.std))
            values = (values - mean) / std
        if self.padded:
            below, right = (max(0, wanted - have) for wanted, have in zip(self.padded, values.shape[1:], strict=True))
            values = np.pad(values, ((0, 0), (0, below), (0, right)))
        return np.ascontiguousarray(values)

    def _resized(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the size to which an image of this size is resized; None if it is not."""
        if self.shortest is None:
            return self.size
        short, long = sorted((height, width))
        new_short, new_long = self.shortest, int(self.shortest * long / short)
        if self.longest is not None and new_long > self.longest:
            new_short, new_long = int(self.longest * new_short / new_long), self.longest
        return (new_short, new_long) if height <= width else (new_long, new_short)

    def region(self, width: float, height: float) -> tuple[float, float, float, float]:
        """Return the region in pixels that the model sees of a `width` x `height` image."""
        resized = self._resized(math.ceil(height), math.ceil(width))
        if not self.crop or not resized:
            return 0.0, 0.0, float(width), float(height)
        seen = [min(1.0, crop / side) for crop, side in zip(self.crop, resized, strict=True)]
        y, x = (height * (1 - seen[0]) / 2, width * (1 - seen[1]) / 2)
        return x, y, width - x, height - y


def _centre(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the central part [height,width,3] of an image [H,W,3], black where it extends beyond the image."""
    tall, wide = max(height, pixels.shape[0]), max(width, pixels.shape[1])
    if (tall, wide) != pixels.shape[:2]:
        whole = np.zeros((tall, wide, 3), pixels.dtype)
        top, left = math.ceil((tall - pixels.shape[0]) / 2), math.ceil((wide - pixels.shape[1]) / 2)
        whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = whole
    top, left = (tall - height) // 2, (wide - width) // 2
    return pixels[top : top + height, left : left + width]


def _sizes(size: Any, kind: str) -> tuple[tuple[int, int] | None, int | None, int | None]:
    """Return `size` of a config as a fixed size, or as that of the shortest side with, perhaps, the longest allowed."""
    if isinstance(size, int) and kind.startswith(_SHORTEST):
        size = {"shortest_edge": size}
    if isinstance(size, Mapping) and "shortest_edge" in size:
        longest = size.get("longest_edge")
        return None, read_side(size["shortest_edge"], "size"), None if longest is None else read_side(longest, "size")
    return _pair(size, "size"), None, None


def _pair(size: Any, name: str) -> tuple[int, int]:
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        size = (size["height"], size["width"])
    height, width = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size, size)
    return read_side(height, name), read_side(width, name)


def read_side(value: Any, name: str) -> int:
    """Return `value`, the field `name` of a config, if it can be an image's side in pixels. Raises ModelError."""
    if type(value) is not int or not 1 <= value <= MAX_SIDE:
        raise ModelError(f"{name} is {value!r:.60}; whole numbers up to {MAX_SIDE} are understood")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise ModelError(f"{value!r:.60} is not a positive number")
    return float(value)


def _three(values: Any) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        raise ModelError(f"image_mean or image_std is {values!r:.60}; three numbers are understood")
    return tuple(float(value) for value in values)
