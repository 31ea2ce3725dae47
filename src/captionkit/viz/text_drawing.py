"""Text in images: font selection and line wrapping."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import cast

from PIL import ImageDraw, ImageFont

INK = (32, 33, 36)
_SIZE = 20

# Tried in this order for text that Pillow's built-in font, which is ASCII only, cannot render: Linux, macOS, Windows.
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


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the first font that has all glyphs of `text`, or the one that lacks the fewest, at `size` pixels."""
    characters = sorted({character for character in text if character.isprintable() and not character.isspace()})
    best = cast(ImageFont.FreeTypeFont, ImageFont.load_default(_SIZE))
    fewest = _missing(best, characters)
    for name in SYSTEM_FONTS:
        if not fewest:
            break
        font = system_font(name)
        if font and (missing := _missing(font, characters)) < fewest:
            best, fewest = font, missing
    return best.font_variant(size=size)


@functools.cache
def system_font(name: str) -> ImageFont.FreeTypeFont | None:
    """Return a system font, or None if it is not installed."""
    try:
        return ImageFont.truetype(name, _SIZE)
    except OSError:
        return None


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """Return the line height in pixels."""
    return sum(font.getmetrics())


def write(draw: ImageDraw.ImageDraw, lines: Sequence[str], font: ImageFont.FreeTypeFont, x: float, y: float) -> None:
    """Draw lines below one another, centred on `x`."""
    for number, line in enumerate(lines):
        draw.text((x, y + number * line_height(font)), line, INK, font, anchor="ma")


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Wrap text to lines of at most `width`; a word wider than that is split."""
    lines, line = [], ""
    for word in text.split():
        if font.getlength(f"{line} {word}".strip()) <= width:
            line = f"{line} {word}".strip()
            continue
        lines.append(line)
        *whole, line = broken(word, font, width)
        lines += whole
    return [kept for kept in [*lines, line] if kept]


def broken(word: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Split a word into pieces of at most `width`, each of at least one character."""
    pieces = []
    while font.getlength(word) > width and len(word) > 1:
        fitting = itertools.takewhile(lambda end: font.getlength(word[:end]) <= width, range(1, len(word)))  # noqa: B023
        end = max(fitting, default=1)
        pieces.append(word[:end])
        word = word[end:]
    return [*pieces, word]


def _missing(font: ImageFont.FreeTypeFont, characters: Iterable[str]) -> int:
    """Return how many of the characters are rendered as the missing-glyph box."""
    box = _drawn(font, "\U0010ffff")  # a code point that Unicode never assigns
    return sum(_drawn(font, character) == box for character in characters)


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
