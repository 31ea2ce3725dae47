"""Attention as an animated GIF: the caption appears word by word, with the attended region of the photo lit."""

from __future__ import annotations

import io
import unicodedata
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from captionkit.utils.atomic_write import MARK
from captionkit.viz.overlay import Box, Words, overlays
from captionkit.viz.text_drawing import INK, broken, font_for, line_height

SIDE = 320
NARROWEST = 240  # minimum width, so that a tall photo leaves room for words
FONT_SIZE = 18
MARGIN = 8
PAD = 3  # padding around the current word
FRAME_MS = 600
LAST_MS = 2400
MARKED = (26, 95, 180)  # background of the current word, which is white
#: palette sizes, tried in order until a frame takes at most FRAME_BYTES on average
COLOURS = (256, 128, 64, 32)
FRAME_BYTES = 90_000


def attention_gif(photo: Image.Image, words: Words, region: Box, *, side: int = SIDE) -> bytes:
    """Return a looping GIF with one frame of 0.6 seconds per word, lit by its attention; the last is shown longer.

    The caption so far is below the photo, with the current word highlighted. All frames share one palette, with fewer
    colours if the file would be large: ten words at 320 pixels stay below 1 MB.

    Args:
        photo, words, region: as for `attention_figure`. Without words, the result is a still GIF of the photo.
        side: pixels of the photo's longer side.

    Raises:
        ValueError: `side` is less than 1.
    """
    if side < 1:
        raise ValueError(f"side = {side}: use a whole number from 1")
    scale = side / max(photo.size)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    plain, lit = overlays(photo, [grid for _, grid in words], region, size)
    labels = [unicodedata.normalize("NFC", word) for word, _ in words]
    width = max(plain.width, NARROWEST)
    font = font_for("".join(labels), FONT_SIZE)
    pieces = _placed(labels, font, width - 2 * MARGIN)
    lines = 1 + max((piece.line for piece in pieces), default=-1)
    height = plain.height + (lines * line_height(font) + 2 * MARGIN if lines else 0)
    frames = [
        _frame(panel, (width, height), [piece for piece in pieces if piece.word <= number], number, font)
        for number, panel in enumerate(lit or [plain])
    ]
    for colours in COLOURS:
        content = _encoded(frames, colours)
        if len(content) <= FRAME_BYTES * len(frames):
            break
    return content


@dataclass(frozen=True)
class _Piece:
    """The position of a word in the caption; a word wider than a line is split into several pieces."""

    text: str
    word: int
    line: int
    left: float
    right: float


def _placed(labels: list[str], font: ImageFont.FreeTypeFont, width: float) -> list[_Piece]:
    """Lay out words in left-aligned lines of at most `width`, so that no word moves as the caption grows."""
    placed: list[_Piece] = []
    space = font.getlength(" ") + PAD
    line, x = 0, 0.0
    for word, label in enumerate(labels):
        for text in broken(label, font, width):
            length = font.getlength(text)
            if x and x + length > width:
                line, x = line + 1, 0.0
            placed.append(_Piece(text, word, line, x, x + length))
            x += length + space
    return placed


def _frame(
    panel: Image.Image, size: tuple[int, int], pieces: list[_Piece], current: int, font: ImageFont.FreeTypeFont
) -> Image.Image:
    frame = Image.new("RGB", size, "white")
    frame.paste(panel, ((size[0] - panel.width) // 2, 0))
    draw = ImageDraw.Draw(frame)
    for piece in pieces:
        x, y = MARGIN + piece.left, panel.height + MARGIN + piece.line * line_height(font)
        marked = piece.word == current
        if marked:
            box = x - PAD, y, MARGIN + piece.right + PAD, y + line_height(font) - 1
            draw.rounded_rectangle(box, 4, MARKED)
        draw.text((x, y), piece.text, "white" if marked else INK, font, anchor="la")
    return frame


def _encoded(frames: list[Image.Image], colours: int) -> bytes:
    """Encode the frames as a GIF with one median-cut palette computed from all of them."""
    pixels = np.concatenate([np.asarray(frame) for frame in frames])
    palette = Image.fromarray(pixels).quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames)
    buffer = io.BytesIO()
    durations = [FRAME_MS] * len(rest) + [LAST_MS]
    animated = {"save_all": True, "append_images": rest, "duration": durations, "loop": 0} if rest else {}
    first.save(buffer, "GIF", optimize=False, comment=MARK.encode(), **animated)
    return buffer.getvalue()
