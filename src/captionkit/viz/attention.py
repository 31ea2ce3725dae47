"""Where the model looked for each word, drawn as in the figures of Show, Attend and Tell (arXiv 1502.03044)."""

from __future__ import annotations

import functools
import itertools
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PANEL_AREA = 240 * 240
LONGEST_SIDE = 560
WIDEST_LABEL = 240
GAP = 16
FIGURE_ASPECT = 1.6
UNATTENDED = 0.22  # brightness left where the model did not look: enough to see what was there
GLOW = 0.12  # towards white where it looked most, so that it shows on a dark photo too
FONT_SIZE = 20
TITLE_SIZE = 24
INK = (32, 33, 36)

# Tried in this order for text that Pillow's own font, which is ASCII only, has no glyphs for: Linux, macOS, Windows.
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "Hiragino Sans GB.ttc",
    "segoeui.ttf",
    "YuGothM.ttc",
    "msyh.ttc",
    "malgun.ttf",
)

Box = tuple[float, float, float, float]


def attention_figure(
    photo: Image.Image, words: Sequence[tuple[str, np.ndarray]], region: Box, *, title: str = ""
) -> Image.Image:
    """One picture: the photo, then per word the photo darkened except where the model looked, the word beneath.

    Args:
        photo: the picture, as `captionkit.images.open_image` returns it.
        words: each word with its attention, [gh, gw], row 0 at the top. Each map is scaled by its own maximum, so
            attention that is spread evenly leaves the whole photo bright.
        region: (left, top, right, bottom) of the photo, in pixels, that the grid covers, as `Preprocessing.region`
            gives it; it may lie inside the photo or reach beyond it. What lies outside it, the model did not see.
        title: a line above, broken where it is too long.
    """
    title = unicodedata.normalize("NFC", title)
    labels = ["", *(unicodedata.normalize("NFC", word) for word, _ in words)]
    font = _font("".join([title, *labels]))
    title_font = font.font_variant(size=TITLE_SIZE)
    panels = _panels(photo, [grid for _, grid in words], region)

    widest = math.ceil(max(font.getlength(label) for label in labels))
    width = max(panels[0].width, min(widest, WIDEST_LABEL))
    lines = [_wrap(label, font, width) for label in labels]
    label_top = panels[0].height + GAP // 2
    height = label_top + sum(font.getmetrics()) * max(map(len, lines))
    columns = _columns(len(panels), width + GAP, height + GAP)

    figure_width = GAP + columns * (width + GAP)
    heading = _wrap(title, title_font, figure_width - 2 * GAP)
    head = GAP + sum(title_font.getmetrics()) * len(heading) + (GAP // 2 if heading else 0)
    figure = Image.new("RGB", (figure_width, head + math.ceil(len(panels) / columns) * (height + GAP)), "white")
    draw = ImageDraw.Draw(figure)
    _write(draw, heading, title_font, figure_width / 2, GAP)
    for number, (panel, label) in enumerate(zip(panels, lines, strict=True)):
        row, column = divmod(number, columns)
        x, y = GAP + column * (width + GAP), head + row * (height + GAP)
        figure.paste(panel, (x + (width - panel.width) // 2, y))
        _write(draw, label, font, x + width / 2, y + label_top)
    return figure


def _panels(photo: Image.Image, grids: Iterable[np.ndarray], region: Box) -> list[Image.Image]:
    """The photo at the size of a panel, then once for each grid, lit by it."""
    plain = photo.convert("RGB").resize(_panel_size(*photo.size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    across, down = plain.width / photo.width, plain.height / photo.height
    left, top, right, bottom = region
    seen = left * across, top * down, right * across, bottom * down
    return [plain, *(_spotlight(plain, grid, seen) for grid in grids)]


def _panel_size(width: int, height: int) -> tuple[int, int]:
    """Panels of equal area whatever the photo's shape, no side being longer than LONGEST_SIDE."""
    scale = min(math.sqrt(PANEL_AREA / (width * height)), LONGEST_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _columns(count: int, width: int, height: int) -> int:
    """How many panels to put side by side for a figure of about FIGURE_ASPECT, its last row as full as may be."""
    rows = min(
        range(1, count + 1),
        key=lambda rows: abs(math.log(math.ceil(count / rows) * width / (rows * height) / FIGURE_ASPECT)),
    )
    return math.ceil(count / rows)


def _spotlight(panel: Image.Image, grid: np.ndarray, region: Box) -> Image.Image:
    """The panel lit by a grid that covers `region`, in the panel's pixels."""
    cells = np.nan_to_num(np.asarray(grid, dtype=np.float32))
    if cells.ndim != 2 or cells.size == 0:
        raise ValueError(f"attention of shape {cells.shape}; one word's is [grid height, grid width]")
    left, top, right, bottom = region
    columns, x = _visible(left, right, panel.width, cells.shape[1])
    rows, y = _visible(top, bottom, panel.height, cells.shape[0])
    light = np.zeros((panel.height, panel.width), dtype=np.float32)
    if columns and rows:
        smooth = Image.fromarray(cells).resize(
            (len(columns), len(rows)), Image.Resampling.BICUBIC, box=(x[0], y[0], x[1], y[1])
        )
        light[rows.start : rows.stop, columns.start : columns.stop] = np.asarray(smooth)
    # The cells' own maximum: what is brightest in view is dimmed where the model looked at the padding instead.
    light = np.clip(light / max(float(cells.max()), np.finfo(np.float32).tiny), 0, 1)
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


def _write(draw: ImageDraw.ImageDraw, lines: list[str], font: ImageFont.FreeTypeFont, x: float, y: float) -> None:
    """Lines below one another, centred on `x`."""
    for number, line in enumerate(lines):
        draw.text((x, y + number * sum(font.getmetrics())), line, INK, font, anchor="ma")


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines no wider than `width`; a word that is wider by itself is broken."""
    lines, line = [], ""
    for word in text.split():
        if font.getlength(f"{line} {word}".strip()) <= width:
            line = f"{line} {word}".strip()
            continue
        lines.append(line)
        while font.getlength(word) > width and len(word) > 1:
            fitting = itertools.takewhile(lambda end: font.getlength(word[:end]) <= width, range(1, len(word)))  # noqa: B023
            end = max(fitting, default=1)
            lines.append(word[:end])
            word = word[end:]
        line = word
    return [kept for kept in [*lines, line] if kept]


def _font(text: str) -> ImageFont.FreeTypeFont:
    """The first font that can write all of `text`, or the one that lacks the least of it."""
    characters = sorted({character for character in text if character.isprintable() and not character.isspace()})
    best = cast(ImageFont.FreeTypeFont, ImageFont.load_default(FONT_SIZE))
    fewest = _missing(best, characters)
    for name in SYSTEM_FONTS:
        if not fewest:
            break
        font = _system_font(name)
        if font and (missing := _missing(font, characters)) < fewest:
            best, fewest = font, missing
    return best


@functools.cache
def _system_font(name: str) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, FONT_SIZE)
    except OSError:
        return None


def _missing(font: ImageFont.FreeTypeFont, characters: Iterable[str]) -> int:
    """How many of the characters come out as the box that stands for no glyph."""
    box = _drawn(font, "\U0010ffff")  # a code point that Unicode never assigns
    return sum(_drawn(font, character) == box for character in characters)


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
