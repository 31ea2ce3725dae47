"""Attention in a terminal: each word's map in block characters, with the word below."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from typing import TextIO

import numpy as np
from PIL import Image

from captionkit.viz.overlay import Words, relative

SHADES = " ░▒▓█"
GAP = "  "
NARROW = 10  # without colour, cells of grids with up to this many columns are two characters wide
#: colours from least to most attention, interpolated linearly
SCALE = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))


def attention_text(words: Words, *, width: int | None = None, colour: bool | None = None) -> str:
    """Return the attention map of each word as lines of text; maps are placed side by side and wrap.

    With colour, a character shows two cells, one above the other, from black over red to yellow. Without, cells are
    shades: two characters per cell for grids of up to ten columns, and one character per two cells (one above the
    other) for finer grids. Each map is scaled by its own maximum, so uniform attention is bright or solid throughout.

    Args:
        words: each word with its attention, [rows, columns], row 0 at the top.
        width: columns of the terminal; None uses the terminal's width.
        colour: whether to use 24-bit colour; None uses it if standard output is a terminal that supports it.

    Raises:
        ValueError: `width` is less than 2.
    """
    width = shutil.get_terminal_size().columns if width is None else width
    if width < 2:
        raise ValueError(f"width = {width}: use a whole number from 2, as some characters take two columns")
    drawn = _coloured if (has_true_colour() if colour is None else colour) else _shaded
    blocks = [_Block(drawn(_fitted(relative(grid), width), width), word, width) for word, grid in words]
    lines: list[str] = []
    for row in _rows(blocks, width):
        above, below = (max(len(part) for part in parts) for parts in zip(*(b.parts for b in row), strict=True))
        lines += [""] if lines else []
        lines += [GAP.join(block.line(number, above) for block in row).rstrip(" ") for number in range(above + below)]
    return "\n".join(lines)


def has_true_colour(stream: TextIO | None = None) -> bool:
    """Return whether `stream` (by default standard output) is a terminal with 24-bit colour.

    This is read from the environment; NO_COLOR (https://no-color.org) disables colour.
    """
    terminal = (sys.stdout if stream is None else stream).isatty()
    able = os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit") or "WT_SESSION" in os.environ
    return terminal and not os.environ.get("NO_COLOR") and able


class _Block:
    """A map and its word, as wide as the wider of the two."""

    def __init__(self, drawn: tuple[int, list[str]], word: str, width: int) -> None:
        from rich.cells import cell_len, chop_cells  # slow to import, and `viz` is imported for other things too

        self.across, rows = drawn
        label = [(text, cell_len(text)) for text in chop_cells(_printable(word), width)]
        self.parts = rows, label
        self.width = max(self.across, *(columns for _, columns in label or [("", 0)]))

    def line(self, number: int, above: int) -> str:
        """Return line `number` of the block, padded to its width; the word starts at line `above`."""
        rows, label = self.parts
        if number < above:
            text, columns = (rows[number], self.across) if number < len(rows) else ("", 0)
        else:
            text, columns = label[number - above] if number - above < len(label) else ("", 0)
        before = (self.width - columns) // 2
        return " " * before + text + " " * (self.width - columns - before)


def _rows(blocks: list[_Block], width: int) -> Iterator[list[_Block]]:
    row: list[_Block] = []
    for block in blocks:
        if row and sum(b.width + len(GAP) for b in row) + block.width > width:
            yield row
            row = []
        row.append(block)
    if row:
        yield row


def _fitted(cells: np.ndarray, width: int) -> np.ndarray:
    """Return the grid, averaged to fewer cells if it has more columns than the terminal."""
    rows, columns = cells.shape
    if columns <= width:
        return cells
    shrunk = Image.fromarray(cells).resize((width, max(1, round(rows * width / columns))), Image.Resampling.BOX)
    return np.asarray(shrunk)


def _coloured(cells: np.ndarray, _: int) -> tuple[int, list[str]]:
    """Draw the map in half blocks [rows / 2, columns]; return its width, and its lines with escape sequences."""
    places = np.linspace(0, 1, len(SCALE))
    mixed = np.stack([np.interp(cells, places, channel) for channel in np.transpose(SCALE)], -1)  # [R,C] -> [R,C,3]
    rgb = mixed.round().astype(int).tolist()
    lines = []
    for upper, lower in itertools.zip_longest(rgb[::2], rgb[1::2]):
        halves = ((top, lower and lower[column]) for column, top in enumerate(upper))
        lines.append("".join(f"{_sgr(38, top)}{_sgr(48, bottom)}▀" for top, bottom in halves) + "\x1b[0m")
    return cells.shape[1], lines


def _sgr(ground: int, colour: list[int] | None) -> str:
    """Return the escape sequence for a foreground (38) or background (48) colour; None is the terminal's default."""
    return f"\x1b[{ground + 1}m" if colour is None else f"\x1b[{ground};2;{';'.join(map(str, colour))}m"


def _shaded(cells: np.ndarray, width: int) -> tuple[int, list[str]]:
    """Draw the map in shades; return its width in characters, and its lines."""
    across = 2 if 2 * cells.shape[1] <= min(2 * NARROW, width) else 1
    if across == 1:  # a character is about twice as high as wide
        odd = np.vstack([cells, cells[-1:]]) if len(cells) % 2 else cells
        cells = odd.reshape(-1, 2, cells.shape[1]).mean(1)  # [R,C] -> [R/2,2,C] -> [R/2,C]
    levels = (cells * (len(SHADES) - 1)).round().astype(int)
    return cells.shape[1] * across, ["".join(SHADES[level] * across for level in row) for row in levels]


def _printable(word: str) -> str:
    """Return the word with control characters, which the terminal would interpret, replaced."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in word)
