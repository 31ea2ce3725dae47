"""Save attention as a figure, an animation or arrays, depending on the file name, or convert it for JSON."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from captionkit.errors import CaptionkitError
from captionkit.utils import atomic_write
from captionkit.viz.animation import attention_gif
from captionkit.viz.attention import attention_figure
from captionkit.viz.overlay import Box, Words

#: supported file name suffixes
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".npz")


def save_attention(
    path: str | os.PathLike[str], photo: Image.Image, words: Words, region: Box, *, caption: str = ""
) -> None:
    """Write the attention maps, atomically, as a figure, a GIF or arrays, depending on the file's suffix.

    A `.npz` holds words [L] and caption (text), attention float32 [L, rows, columns], region float64 [4] (left, top,
    right, bottom, in pixels of the photo) and photo int64 [2] (its width and height); it loads without pickle.

    Args:
        photo, words, region: as for `attention_figure`.
        caption: the caption, shown above the figure and stored in the arrays.

    Raises:
        CaptionkitError: the suffix is not supported, or the file cannot be written.
    """
    suffix = check_name(path)
    if suffix == ".gif":
        atomic_write.write_bytes(path, attention_gif(photo, words, region))
    elif suffix == ".npz":
        atomic_write.write_bytes(path, _arrays(photo.size, words, region, caption))
    else:
        atomic_write.write_image(path, attention_figure(photo, words, region, title=caption))


def check_name(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a file name for `save_attention`. Raises CaptionkitError if it is not supported."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise CaptionkitError(f"{path}: attention is written as {', '.join(SUFFIXES)}; end the name in one of them")
    return suffix


def attention_lists(grid: np.ndarray) -> list[list[float]]:
    """Convert a map to lists for JSON: rows of values, rounded to four decimals, with NaN as 0."""
    return [[round(float(value), 4) for value in row] for row in np.nan_to_num(grid)]


def _arrays(size: tuple[int, int], words: Words, region: Box, caption: str) -> bytes:
    maps = [np.asarray(grid, np.float32) for _, grid in words]
    if any(grid.ndim != 2 or grid.shape != maps[0].shape for grid in maps):
        shapes = sorted({grid.shape for grid in maps})
        raise ValueError(f"attention of shapes {shapes}; all words' are [rows, columns] of one grid")
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        words=np.array([word for word, _ in words], dtype=np.str_),
        caption=np.array(caption, dtype=np.str_),
        attention=np.stack(maps) if maps else np.zeros((0, 0, 0), np.float32),
        region=np.array(region, np.float64),
        photo=np.array(size, np.int64),
    )
    return buffer.getvalue()
