"""Attention as a strip of thumbnails, for pages and reports."""

from __future__ import annotations

import math
import unicodedata

from PIL import Image, ImageDraw, ImageFont

from captionkit.viz.overlay import Box, Words, overlays
from captionkit.viz.text_drawing import broken, font_for, line_height, write

WIDTH = 1000
HEIGHT = 96
FONT_SIZE = 14
GAP = 6
WIDEST = 3.0  # largest aspect ratio of a thumbnail; for a wider photo the height is reduced


def attention_strip(
    photo: Image.Image, words: Words, region: Box, *, width: int = WIDTH, height: int = HEIGHT
) -> Image.Image:
    """Return a row of thumbnails, one per word with the word below; wrapped to several rows if `width` is too small.

    Args:
        photo, words, region: as for `attention_figure`. Without words, only the photo is shown.
        width: maximum width of the strip in pixels; short captions make a narrower strip.
        height: height of a thumbnail in pixels.

    Raises:
        ValueError: `width` or `height` is less than 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"width = {width}, height = {height}: use whole numbers from 1")
    labels = [unicodedata.normalize("NFC", word) for word, _ in words]
    font = font_for("".join(labels), FONT_SIZE)
    plain, lit = overlays(photo, [grid for _, grid in words], region, _thumbnail(*photo.size, width, height))
    cells = [_Cell(panel, label, font, width) for panel, label in zip(lit or [plain], labels or [""], strict=True)]

    rows: list[list[_Cell]] = [[]]
    for cell in cells:
        if rows[-1] and _breadth([*rows[-1], cell]) > width:
            rows.append([])
        rows[-1].append(cell)
    tall = max(cell.height for cell in cells)
    strip = Image.new("RGB", (max(map(_breadth, rows)), len(rows) * tall + (len(rows) - 1) * GAP), "white")
    draw = ImageDraw.Draw(strip)
    for number, row in enumerate(rows):
        x, y = 0, number * (tall + GAP)
        for cell in row:
            strip.paste(cell.panel, (x + (cell.width - cell.panel.width) // 2, y))
            write(draw, cell.lines, font, x + cell.width / 2, y + cell.panel.height + GAP // 2)
            x += cell.width + GAP
    return strip


class _Cell:
    """A thumbnail with its word below, as wide as the wider of the two; the word is split at `width`."""

    def __init__(self, panel: Image.Image, label: str, font: ImageFont.FreeTypeFont, width: int) -> None:
        self.panel = panel
        self.lines = [piece for piece in broken(label, font, width) if piece]
        self.width = max(panel.width, *(math.ceil(font.getlength(line)) for line in self.lines or [""]))
        self.height = panel.height + (GAP // 2 + line_height(font) * len(self.lines) if self.lines else 0)


def _breadth(row: list[_Cell]) -> int:
    return sum(cell.width for cell in row) + GAP * (len(row) - 1)


def _thumbnail(across: int, down: int, width: int, height: int) -> tuple[int, int]:
    """Return the thumbnail size for a photo of `across` x `down` pixels."""
    scale = min(height / down, min(width, WIDEST * height) / across)
    return max(1, round(across * scale)), max(1, round(down * scale))
