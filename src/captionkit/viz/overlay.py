"""The photo lit by attention: bright where the model looked, dark elsewhere, as in arXiv 1502.03044."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

UNATTENDED = 0.22  # brightness left where the model did not look: enough to see what was there
GLOW = 0.12  # towards white where it looked most, so that it shows on a dark photo too
VEIL_SCALE = 4

#: left, top, right, bottom, in pixels
Box = tuple[float, float, float, float]
#: each word of a caption with its attention, [rows, columns], row 0 at the top
Words = Sequence[tuple[str, np.ndarray]]


def overlays(
    photo: Image.Image, grids: Iterable[np.ndarray], region: Box, size: tuple[int, int]
) -> tuple[Image.Image, list[Image.Image]]:
    """The photo at `size` (width, height), and the same once for each grid, lit by it.

    `region` is the part of the photo, in its pixels, that the grids cover; it may reach beyond the photo.
    Raises ValueError for a grid that is not [rows, columns], and for an empty region.
    """
    plain = photo.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    across, down = plain.width / photo.width, plain.height / photo.height
    left, top, right, bottom = region
    seen = left * across, top * down, right * across, bottom * down
    return plain, [_spotlight(plain, relative(grid), seen) for grid in grids]


def veil(grid: np.ndarray) -> Image.Image:
    """What, stretched over the part of a photo that `grid` covers, lights it as `overlays` does: grey and alpha ("LA").

    It has VEIL_SCALE pixels to a cell, so that a page can hold one for each word; the browser smooths the rest.
    Raises ValueError for a grid that is not [rows, columns].
    """
    cells = relative(grid)
    size = cells.shape[1] * VEIL_SCALE, cells.shape[0] * VEIL_SCALE
    light = np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    # colour * kept + 255 * GLOW * light, as in _spotlight, is grey * alpha + colour * (1 - alpha).
    kept = UNATTENDED + (1 - UNATTENDED - GLOW) * light
    alpha = 1 - kept
    grey = 255 * GLOW * light / alpha
    return Image.fromarray(np.stack([grey, 255 * alpha], axis=-1).round().astype(np.uint8), "LA")


def relative(grid: np.ndarray) -> np.ndarray:
    """A map on the scale of its own maximum, float32 [rows, columns] of 0 to 1; what is not a number counts as 0.

    Raises ValueError where it is not [rows, columns].
    """
    cells = np.nan_to_num(np.asarray(grid, dtype=np.float32))
    if cells.ndim != 2 or cells.size == 0:
        raise ValueError(f"attention of shape {cells.shape}; one word's is [grid height, grid width]")
    return np.clip(cells / max(float(cells.max()), float(np.finfo(np.float32).tiny)), 0, 1)


def _spotlight(panel: Image.Image, cells: np.ndarray, region: Box) -> Image.Image:
    """The panel lit by cells of 0 to 1 that cover `region`, in the panel's pixels.

    Their maximum is that of the whole grid: what is brightest in view is dim where the model looked at the padding.
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
    """Along one axis: the panel's pixels inside the region, and the stretch of the grid, in cells, that they show."""
    if not stop > start:
        raise ValueError(f"the region that the attention covers is empty ({start:g} to {stop:g})")
    pixels = range(max(0, round(start)), min(size, round(stop)))
    first, last = ((edge - start) / (stop - start) * cells for edge in (pixels.start, pixels.stop))
    return pixels, (max(0.0, first), min(float(cells), last))
