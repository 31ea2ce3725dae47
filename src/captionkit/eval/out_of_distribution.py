"""Synthetic out-of-distribution images: pages, charts, drawings, micrographs, blank frames, generated from a seed.

A photo captioner produces a caption for them all the same. When its confidence is fitted
(`captionkit.eval.fit_confidence`), every caption of these images counts as wrong, so that confidence becomes low on
such images. Layout, colours, sizes and noise are random.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Draw = Callable[[np.random.Generator], Image.Image]
Colour = tuple[int, int, int]

_LONGER, _SHORTER = 320, (200, 320)
_LETTERS = list("etaoinshrdlucmfwypvbgkjqxz")
_GRAY_LEVELS = 256


def out_of_distribution_images(number: int, *, seed: int = 0) -> list[tuple[str, Image.Image]]:
    """Return `number` pairs (kind, RGB image), the kinds in turn; the same for the same number and seed."""
    kinds = list(KINDS)
    generator = np.random.default_rng([seed, 1907])
    return [(kind, KINDS[kind](generator)) for kind in (kinds[place % len(kinds)] for place in range(number))]


def _size(generator: np.random.Generator) -> tuple[int, int]:
    """Return width and height; either can be the longer side."""
    sides = [_LONGER, int(generator.integers(*_SHORTER, endpoint=True))]
    return (sides[0], sides[1]) if generator.random() < 0.5 else (sides[1], sides[0])


def _colour(generator: np.random.Generator, low: int = 0, high: int = 255) -> Colour:
    red, green, blue = generator.integers(low, high, 3, endpoint=True).tolist()
    return red, green, blue


def _paper(generator: np.random.Generator) -> Image.Image:
    """Return an empty sheet, usually white, sometimes tinted or dark."""
    chance = generator.random()
    ground = (
        (255, 255, 255) if chance < 0.6 else _colour(generator, 225) if chance < 0.85 else _colour(generator, 0, 40)
    )
    return Image.new("RGB", _size(generator), ground)


def _ink(generator: np.random.Generator, sheet: Image.Image) -> Colour:
    """Return a colour that is legible on the sheet."""
    corner = sheet.getpixel((0, 0))
    light = isinstance(corner, tuple) and sum(corner) > 3 * 128
    return _colour(generator, 0, 70) if light else _colour(generator, 190)


def _word(generator: np.random.Generator) -> str:
    weights = np.linspace(2, 0.2, len(_LETTERS))
    return "".join(generator.choice(_LETTERS, int(generator.integers(1, 10)), p=weights / weights.sum()))


def _text(generator: np.random.Generator) -> Image.Image:
    """Draw a page, letter, sign or screen of text in lines, sometimes with a heading."""
    sheet = _paper(generator)
    draw, ink = ImageDraw.Draw(sheet), _ink(generator, sheet)
    size = int(generator.choice([8, 10, 12, 14, 18, 28, 44]))
    font, margin = ImageFont.load_default(size), int(generator.integers(4, 40))
    down = float(margin)
    if generator.random() < 0.4:
        draw.text((margin, down), _word(generator).title(), ink, ImageFont.load_default(2 * size))
        down += 3 * size
    ragged = generator.uniform(0, 0.5)
    while down < sheet.height - margin - size:
        end = (sheet.width - margin) * (1 - ragged * generator.random())
        line = _word(generator)
        while font.getlength(f"{line} {line[:4]}") + margin < end:
            line += f" {_word(generator)}"
        if generator.random() > 0.08:  # else a gap between paragraphs
            draw.text((margin, down), line, ink, font)
        down += size * 1.4
    return sheet


def _chart(generator: np.random.Generator) -> Image.Image:
    """Draw bars, lines, points or a pie on axes, with ticks and labels."""
    sheet = _paper(generator)
    draw, ink = ImageDraw.Draw(sheet), _ink(generator, sheet)
    font = ImageFont.load_default(int(generator.integers(8, 14)))
    left, top, right, bottom = 36, 24, sheet.width - 14, sheet.height - 26
    if generator.random() < 0.7:
        draw.text((left + 20, 5), f"{_word(generator)} {_word(generator)}", ink, font)
    kind = generator.choice(["bars", "lines", "points", "pie"])
    if kind == "pie":
        _pie(generator, draw, (left, top, right, bottom))
        return sheet
    grid = tuple((channel + 128) // 2 for channel in ink)
    for height in np.linspace(top, bottom, int(generator.integers(3, 8))):
        if generator.random() < 0.8:
            draw.line([(left, height), (right, height)], grid)
        draw.text((4, height - 6), str(generator.integers(1, 999)), ink, font)
    draw.line([(left, top), (left, bottom), (right, bottom)], ink, 2)
    for _ in range(1 if kind == "bars" else int(generator.integers(1, 5))):
        _series(generator, draw, str(kind), (left, top, right, bottom))
    return sheet


def _series(
    generator: np.random.Generator, draw: ImageDraw.ImageDraw, kind: str, box: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = box
    colour, number = _colour(generator, 20, 220), int(generator.integers(4, 14))
    across = np.linspace(left + 8, right - 8, number + 1)
    heights = generator.uniform(top + 5, bottom - 5, number + 1)
    if kind == "bars":
        for (start, end), height in zip(pairwise(across.tolist()), heights.tolist(), strict=False):
            draw.rectangle([start, height, start + 0.7 * (end - start), bottom], colour)
    elif kind == "lines":
        draw.line(list(zip(across.tolist(), heights.tolist(), strict=True)), colour, int(generator.integers(1, 4)))
    else:
        for _ in range(int(generator.integers(10, 80))):
            x, y = generator.uniform(left, right), generator.uniform(top, bottom)
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], colour)


def _pie(generator: np.random.Generator, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    side = min(right - left, bottom - top)
    edges = np.concatenate([[0], np.sort(generator.uniform(0, 360, int(generator.integers(2, 7)))), [360]])
    for start, end in pairwise(edges.tolist()):
        draw.pieslice([left, top, left + side, top + side], start, end, _colour(generator, 20, 235))


def _drawing(generator: np.random.Generator) -> Image.Image:
    """Draw pen strokes: curves, polygons and circles, as in a sketch or a diagram."""
    sheet = _paper(generator)
    draw, ink = ImageDraw.Draw(sheet), _ink(generator, sheet)
    width = int(generator.integers(1, 5))
    for _ in range(int(generator.integers(4, 26))):
        centre = generator.uniform(0, 1, 2) * sheet.size
        reach = generator.uniform(10, 90)
        if generator.random() < 0.4:
            draw.ellipse([*(centre - reach), *(centre + reach)], outline=ink, width=width)
            continue
        turns = np.cumsum(generator.normal(0, 0.5, int(generator.integers(2, 40)))) + generator.uniform(0, 2 * np.pi)
        steps = np.stack([np.cos(turns), np.sin(turns)], 1) * reach / 5  # [points,2]
        draw.line([(x, y) for x, y in (centre + np.cumsum(steps, 0)).tolist()], ink, width, joint="curve")
    return sheet


def _screen(generator: np.random.Generator) -> Image.Image:
    """Draw a table, form or window of a program: boxes with a word in each."""
    sheet = _paper(generator)
    draw, ink = ImageDraw.Draw(sheet), _ink(generator, sheet)
    rows, columns = generator.integers(2, 12), generator.integers(1, 6)
    downs, acrosses = (np.linspace(6, side - 6, n + 1) for side, n in ((sheet.height, rows), (sheet.width, columns)))
    font = ImageFont.load_default(10)
    filled = generator.random() * 0.5
    for top, bottom in pairwise(downs.tolist()):
        for left, right in pairwise(acrosses.tolist()):
            fill = _colour(generator, 60) if generator.random() < filled else None
            draw.rectangle([left, top, right - 2, bottom - 2], fill, ink)
            draw.text((left + 3, top + 2), _word(generator), ink, font)
    return sheet


def _micrograph(generator: np.random.Generator) -> Image.Image:
    """Draw cells or grains, stained on a bright background or glowing on a dark one, slightly out of focus."""
    bright = generator.random() < 0.5
    width, height = _size(generator)
    ground, cell = (
        (_colour(generator, 200), _colour(generator, 60, 190)) if bright else ((8, 8, 12), _colour(generator, 90))
    )
    sheet = Image.new("RGB", (width, height), ground)
    draw, size = ImageDraw.Draw(sheet), generator.uniform(3, 26)
    for _ in range(int(generator.integers(15, 220))):
        x, y = generator.uniform(0, width), generator.uniform(0, height)
        across, down = size * generator.uniform(0.5, 1.4, 2)
        draw.ellipse([x - across, y - down, x + across, y + down], cell)
        if bright:
            dark = tuple(channel // 2 for channel in cell)
            draw.ellipse([x - across / 3, y - down / 3, x + across / 3, y + down / 3], dark)
    blurred = np.asarray(sheet.filter(ImageFilter.GaussianBlur(generator.uniform(0.5, 4))), np.float64)
    return _image(blurred + generator.normal(0, generator.uniform(1, 14), blurred.shape))


def _frame(generator: np.random.Generator) -> Image.Image:
    """Draw a frame of one colour, mostly black, white or grey, sometimes with camera noise."""
    width, height = _size(generator)
    chance = generator.random()
    tone: Colour = (0, 0, 0) if chance < 0.3 else (255, 255, 255) if chance < 0.5 else _colour(generator)
    if 0.5 <= chance < 0.75:
        tone = (tone[0],) * 3
    noise = generator.normal(0, generator.choice([0, 0, 2, 8]), (height, width, 3))
    return _image(np.array(tone) + noise)


def _gradient(generator: np.random.Generator) -> Image.Image:
    """Draw a gradient from one colour to another, linear or radial."""
    width, height = _size(generator)
    down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = generator.uniform(0, 2 * np.pi)
    slope = np.hypot(down, across) if generator.random() < 0.4 else np.cos(angle) * across + np.sin(angle) * down
    share = (slope - slope.min()) / np.ptp(slope)
    ends = np.array([_colour(generator), _colour(generator)])
    return _image(ends[0] + share[:, :, None] * (ends[1] - ends[0]))


def _noise(generator: np.random.Generator) -> Image.Image:
    """Draw noise, fine or cloudy, grey or coloured."""
    width, height = _size(generator)
    channels = int(generator.choice([1, 3]))
    grain = int(generator.choice([1, 1, 2, 4, 16, 40]))
    shape = (height // grain + 2, width // grain + 2, channels)
    values = np.broadcast_to(generator.normal(128, generator.uniform(15, 90), shape), (*shape[:2], 3))
    resized = _image(values).resize((shape[1] * grain, shape[0] * grain), Image.Resampling.BICUBIC)
    return resized.crop((0, 0, width, height))


def _pattern(generator: np.random.Generator) -> Image.Image:
    """Draw checks or stripes, as on test cards and fabrics, or random cells of two colours, as in QR codes."""
    width, height = _size(generator)
    down, across = np.mgrid[:height, :width] // generator.integers(4, 50)
    kind = generator.choice(["checks", "stripes", "code"])
    if kind == "code":
        cells = generator.random((down.max() + 1, across.max() + 1)) < 0.5
        marked = cells[down, across]
    else:
        marked = ((down + across if kind == "checks" else across) % 2).astype(bool)
    first, second = (
        ((0, 0, 0), (255, 255, 255)) if generator.random() < 0.5 else (_colour(generator), _colour(generator))
    )
    return _image(np.where(marked[:, :, None], first, second))


def _image(values: NDArray[np.generic]) -> Image.Image:
    """Return an RGB image of values [height,width,3], rounded and clipped."""
    clipped = np.rint(values).clip(0, _GRAY_LEVELS - 1)
    return Image.fromarray(clipped.astype(np.uint8))


#: drawing functions by kind
KINDS: dict[str, Draw] = {
    "text": _text,
    "chart": _chart,
    "drawing": _drawing,
    "screen": _screen,
    "micrograph": _micrograph,
    "frame": _frame,
    "gradient": _gradient,
    "noise": _noise,
    "pattern": _pattern,
}
