"""Attention overlays: the photo bright where the model attended and dark elsewhere, as in arXiv 1502.03044."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

UNATTENDED = 0.22  # brightness where the model did not attend: enough to recognize the content
GLOW = 0.12  # blend towards white where it attended most, so that it is visible on dark photos too
VEIL_SCALE = 4

#: left, top, right, bottom, in pixels
Box = tuple[float, float, float, float]
#: each word of a caption with its attention, [rows, columns], row 0 at the top
Words = Sequence[tuple[str, np.ndarray]]


def overlays(
    photo: Image.Image, grids: Iterable[np.ndarray], region: Box, size: tuple[int, int]
) -> tuple[Image.Image, list[Image.Image]]:
    """Return the photo resized to `size` (width, height), and a copy lit by each grid.

    `region` is the part of the photo, in its pixels, that the grids cover; it may extend beyond the photo. Raises
    ValueError for a grid that is not [rows, columns], and for an empty region.
    """
    plain = photo.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    across, down = plain.width / photo.width, plain.height / photo.height
    left, top, right, bottom = region
    seen = left * across, top * down, right * across, bottom * down
    return plain, [_spotlight(plain, relative(grid), seen) for grid in grids]


def veil(grid: np.ndarray) -> Image.Image:
    """Return a grey and alpha ("LA") image that, stretched over the region of `grid`, lights it as `overlays` does.

    It has VEIL_SCALE pixels per cell, small enough for a page to embed one per word; the browser interpolates. Raises
    ValueError for a grid that is not [rows, columns].
    """
    cells = relative(grid)
    size = cells.shape[1] * VEIL_SCALE, cells.shape[0] * VEIL_SCALE
    light = np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    # colour * kept + 255 * GLOW * light, as in _spotlight, is grey * alpha + colour * (1 - alpha).
    kept = UNATTENDED + (1 - UNATTENDED - GLOW) * light
    alpha = 1 - kept
    grey = 255 * GLOW * light / alpha
    return Image.fromarray(np.stack([grey, 255 * alpha], axis=-1).round().astype(np.uint8))  # LA


def relative(grid: np.ndarray) -> np.ndarray:
    """Scale a map by its own maximum to float32 [rows, columns] in 0 to 1; NaN counts as 0.

    Raises ValueError if it is not [rows, columns].
    """
    cells = np.nan_to_num(np.asarray(grid, dtype=np.float32))
    if cells.ndim != 2 or cells.size == 0:
        raise ValueError(f"attention of shape {cells.shape}; one word's is [grid height, grid width]")
    return np.clip(cells / max(float(cells.max()), float(np.finfo(np.float32).tiny)), 0, 1)


def _spotlight(panel: Image.Image, cells: np.ndarray, region: Box) -> Image.Image:
    """Return the panel lit by cells in 0 to 1 that cover `region`, in the panel's pixels.

    Cells are scaled by the maximum of the whole grid, so if the model attended most to padding, the photo stays dim.
    """
    left, top, right, bottom = region
    columns, x = _visible(left, right, panel.width, cells.shape[1])
    rows, y = _visible(top, bottom, panel.height, cells.shape[0])
    light = np.zeros((panel.height, panel.width), dtype=np.float32)
    if columns and rows:
        smooth = Image.fromarray(cells).resize(
            (len(columns), len(rows)), Image.Resampling.BICUBIC, box=(x[0], y[0], x[1], y[1])
        )
        light[rows.start : rows.stop, columns.start : columns.stop] = np.asarray(smooth).clip(0, 1)
    colours, light = np.asarray(panel, dtype=np.float32), light[..., None]
    lit = colours * (UNATTENDED + (1 - UNATTENDED) * light) + (255 - colours) * GLOW * light
    return Image.fromarray(lit.round().astype(np.uint8))


def _visible(start: float, stop: float, size: int, cells: int) -> tuple[range, tuple[float, float]]:
    """Return, for one axis, the panel's pixels inside the region, and the range of the grid, in cells, they show."""
    if not stop > start:
        raise ValueError(f"the region that the attention covers is empty ({start:g} to {stop:g})")
    pixels = range(max(0, round(start)), min(size, round(stop)))
    first, last = ((edge - start) / (stop - start) * cells for edge in (pixels.start, pixels.stop))
    return pixels, (max(0.0, first), min(float(cells), last))
