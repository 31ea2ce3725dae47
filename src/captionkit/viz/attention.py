"""Attention maps per word, drawn as in the figures of Show, Attend and Tell (arXiv 1502.03044)."""

from __future__ import annotations

import math
import unicodedata

from PIL import Image, ImageDraw

from captionkit.viz.overlay import Box, Words, overlays
from captionkit.viz.text_drawing import font_for, line_height, wrap, write

PANEL_AREA = 240 * 240
LONGEST_SIDE = 560
WIDEST_LABEL = 240
GAP = 16
FIGURE_ASPECT = 1.6
FONT_SIZE = 20
TITLE_SIZE = 24


def attention_figure(photo: Image.Image, words: Words, region: Box, *, title: str = "") -> Image.Image:
    """Return a figure of the photo, then per word the photo darkened except where the model attended, labelled.

    Args:
        photo: the image, as returned by `captionkit.data.images.open_image`.
        words: each word with its attention, [gh, gw], row 0 at the top. Each map is scaled by its own maximum, so
            uniform attention leaves the whole photo bright.
        region: (left, top, right, bottom) of the photo, in pixels, that the grid covers, as returned by
            `Preprocessing.region`; it may lie inside the photo or extend beyond it. The model did not see anything
            outside it.
        title: the heading, wrapped if it is too long.
    """
    title = unicodedata.normalize("NFC", title)
    labels = ["", *(unicodedata.normalize("NFC", word) for word, _ in words)]
    font = font_for("".join([title, *labels]), FONT_SIZE)
    title_font = font.font_variant(size=TITLE_SIZE)
    plain, lit = overlays(photo, [grid for _, grid in words], region, _panel_size(*photo.size))

    widest = math.ceil(max(font.getlength(label) for label in labels))
    width = max(plain.width, min(widest, WIDEST_LABEL))
    lines = [wrap(label, font, width) for label in labels]
    label_top = plain.height + GAP // 2
    height = label_top + line_height(font) * max(map(len, lines))
    columns = _columns(len(lines), width + GAP, height + GAP)

    figure_width = GAP + columns * (width + GAP)
    heading = wrap(title, title_font, figure_width - 2 * GAP)
    head = GAP + line_height(title_font) * len(heading) + (GAP // 2 if heading else 0)
    figure = Image.new("RGB", (figure_width, head + math.ceil(len(lines) / columns) * (height + GAP)), "white")
    draw = ImageDraw.Draw(figure)
    write(draw, heading, title_font, figure_width / 2, GAP)
    for number, (panel, label) in enumerate(zip([plain, *lit], lines, strict=True)):
        row, column = divmod(number, columns)
        x, y = GAP + column * (width + GAP), head + row * (height + GAP)
        figure.paste(panel, (x + (width - panel.width) // 2, y))
        write(draw, label, font, x + width / 2, y + label_top)
    return figure


def _panel_size(width: int, height: int) -> tuple[int, int]:
    """Return the size of a panel: equal area for all aspect ratios, and no side longer than LONGEST_SIDE."""
    scale = min(math.sqrt(PANEL_AREA / (width * height)), LONGEST_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _columns(count: int, width: int, height: int) -> int:
    """Return the number of columns for an aspect ratio near FIGURE_ASPECT, with the last row as full as possible."""
    rows = min(
        range(1, count + 1),
        key=lambda rows: abs(math.log(math.ceil(count / rows) * width / (rows * height) / FIGURE_ASPECT)),
    )
    return math.ceil(count / rows)
