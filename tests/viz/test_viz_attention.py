"""Attention as a strip, in a terminal, as a GIF and as arrays; and where the bundled model's grid lies."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from captionkit.data.images import Preprocessing, preprocess
from captionkit.errors import CaptionkitError
from captionkit.viz import (
    attention_figure,
    attention_gif,
    attention_strip,
    attention_text,
    sample_photos,
    save_attention,
    terminal,
)
from captionkit.viz.animation import MARKED
from captionkit.viz.attention_files import attention_lists

RED = (255, 0, 0)
LONG = "Donaudampfschifffahrtsgesellschaftskapitaen"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def planted(grid: tuple[int, int], *cell: int) -> np.ndarray:
    weights = np.zeros(grid, np.float32)
    weights[cell] = 1
    return weights


def sentence(*words: str, grid: tuple[int, int] = (7, 7)) -> list[tuple[str, np.ndarray]]:
    return [(word, np.full(grid, 1 / (grid[0] * grid[1]), np.float32)) for word in words]


def runs(mask: np.ndarray) -> list[slice]:
    """The stretches of a line where `mask` holds."""
    places = np.flatnonzero(mask)
    return [slice(part[0], part[-1] + 1) for part in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)]


def thumbnails(strip: Image.Image) -> list[list[np.ndarray]]:
    """The thumbnails of a red photo by row, found as what is far from the white of the strip."""
    pixels = np.asarray(strip).astype(int)
    inside = (pixels[:, :, 2] < 100) & (pixels[:, :, 0] - pixels[:, :, 1] > 20)
    rows = [row for row in runs(inside.any(axis=1)) if row.stop - row.start > 20]
    return [[pixels[row, column] for column in runs(inside[row].any(axis=0))] for row in rows]


def lit_middle(panel: np.ndarray) -> tuple[float, float]:
    """Where the light is, in shares of the panel's height and width."""
    rows, columns = np.nonzero(panel[:, :, 0] > 0.8 * 255)
    return (rows.mean() + 0.5) / panel.shape[0], (columns.mean() + 0.5) / panel.shape[1]


# --- strip ---


@pytest.mark.parametrize("size", [(600, 400), (300, 420)])
@pytest.mark.parametrize("grid", [(7, 7), (14, 14)])
def test_a_strip_is_lit_where_the_weight_is(size, grid):
    cells = [(1, 2), (grid[0] - 2, 3), (grid[0] // 2, grid[1] - 2)]
    words = [("word", planted(grid, *cell)) for cell in cells]
    (row,) = thumbnails(attention_strip(Image.new("RGB", size, RED), words, (0, 0, *size)))
    assert len(row) == 3
    for panel, cell in zip(row, cells, strict=True):
        found = np.multiply(lit_middle(panel), grid) - 0.5
        assert np.abs(found - cell).max() < 0.35


def test_a_strip_shows_a_region_that_reaches_beyond_the_photo_on_one_side():
    # Of the grid's 4 columns the first two lie left of the photo, the others on its left and right half.
    photo, region = Image.new("RGB", (200, 200), RED), (-200, 0, 200, 200)
    words = [(str(column), planted((2, 4), 0, column)) for column in range(4)]
    (row,) = thumbnails(attention_strip(photo, words, region))
    assert [panel[:, :, 0].max() > 200 for panel in row] == [False, False, True, True]
    assert lit_middle(row[2])[1] < 0.4 < 0.6 < lit_middle(row[3])[1]


@pytest.mark.parametrize(
    ("width", "rows"), [(1000, [6]), (410, [4, 2]), (205, [2, 2, 2]), (100, [1] * 6), (40, [1] * 6)]
)
def test_a_strip_wraps_and_is_no_wider_than_asked(width, rows):
    strip = attention_strip(Image.new("RGB", (100, 100), RED), sentence(*"abcdef"), (0, 0, 100, 100), width=width)
    assert strip.width <= width
    assert [len(row) for row in thumbnails(strip)] == rows


def test_a_strip_of_one_word_and_of_none():
    photo = Image.new("RGB", (100, 100), RED)
    one, none = (attention_strip(photo, words, (0, 0, 100, 100)) for words in (sentence("dog"), []))
    assert [panel.shape[:2] for row in thumbnails(one) for panel in row] == [(96, 96)]
    assert one.height > 96
    assert none.size == (96, 96) and (np.asarray(none) == RED).all()


@pytest.mark.parametrize("size", [(1, 1), (4000, 100), (50, 3000)])
@pytest.mark.parametrize("word", [LONG, "自転車に乗る人", "", "ж"])
def test_a_strip_of_any_photo_and_word_keeps_its_width(size, word):
    strip = attention_strip(Image.new("RGB", size, RED), sentence(word, "a", word), (0, 0, *size), width=150)
    assert strip.width <= 150
    assert strip.height < 3 * (96 + 150)


def test_the_words_of_a_strip_are_told_apart():
    photo = Image.new("RGB", (90, 90))
    strips = [attention_strip(photo, sentence(word), (0, 0, 90, 90)).tobytes() for word in ("dog", "cat", "")]
    assert len(set(strips)) == 3


@pytest.mark.parametrize("size", [{"width": 0}, {"height": 0}])
def test_a_strip_without_extent_is_refused(size):
    with pytest.raises(ValueError, match="from 1"):
        attention_strip(Image.new("RGB", (9, 9)), sentence("a"), (0, 0, 9, 9), **size)


# --- terminal ---


def columns(line: str) -> int:
    """What a terminal shows of a line, in columns; counted apart from the code under test."""
    plain = ESCAPE.sub("", line)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in plain)
    return len(plain) + wide - sum(bool(unicodedata.combining(character)) for character in plain)


def test_shades_stand_where_the_weight_is():
    grid = np.zeros((7, 7))
    grid[2, 5], grid[6, 0], grid[0, 0], grid[0, 1] = 1, 0.75, 0.5, 0.25
    lines = attention_text([("dog", grid)], width=80, colour=False).split("\n")
    assert lines == ["▒▒░░", "", "          ██", "", "", "", "▓▓", "     dog"]


def test_a_fine_grid_takes_half_as_many_lines():
    lines = attention_text([("dog", planted((14, 14), 9, 3))], width=80, colour=False).split("\n")
    assert lines == ["", "", "", "", "   ▒", "", "", "     dog"]
    odd = attention_text([("dog", planted((11, 11), 10, 0))], width=80, colour=False).split("\n")
    assert odd == ["", "", "", "", "", "█", "    dog"]


def test_even_attention_is_solid_and_none_is_empty():
    assert attention_text(sentence("a", grid=(2, 2)), width=9, colour=False) == "████\n████\n a"
    nothing = [("a", np.zeros((2, 2))), ("b", np.full((2, 2), np.nan))]
    assert attention_text(nothing, width=20, colour=False) == "\n\n a     b"


def test_colours_stand_where_the_weight_is():
    grid = planted((3, 2), 0, 0)
    grid[2, 1] = 1
    upper, lower, word = attention_text([("a", grid)], width=80, colour=True).split("\n")
    dark, bright = "2;0;0;4", "2;252;255;164"
    assert upper == f"\x1b[38;{bright}m\x1b[48;{dark}m▀\x1b[38;{dark}m\x1b[48;{dark}m▀\x1b[0m"
    assert lower == f"\x1b[38;{dark}m\x1b[49m▀\x1b[38;{bright}m\x1b[49m▀\x1b[0m"  # an odd row has nothing beneath
    assert word == "a"


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (37, 50), (1, 1)])
@pytest.mark.parametrize("width", [80, 31, 10, 2])
def test_a_terminal_of_any_width_is_not_exceeded_and_loses_no_word(colour, grid, width):
    words = ["a", "skateboarding", "自転車", LONG, "e\u0301te\u0301"]
    text = attention_text(sentence(*words, grid=grid), width=width, colour=colour)
    assert max(map(columns, text.split("\n"))) <= width
    letters = "".join(c for c in ESCAPE.sub("", text) if c not in " ░▒▓█▀\n")
    # Words that stand side by side are told line by line.
    assert sorted(letters) == sorted("".join(words))
    assert ("\x1b" in text) == colour


def test_maps_stand_side_by_side_above_their_words():
    text = attention_text(sentence("one", "two", "three", grid=(2, 3)), width=22, colour=False)
    assert text == "\n".join(["██████  ██████  ██████"] * 2 + [" one     two    three"])
    wrapped = attention_text(sentence("one", "two", "three", grid=(2, 3)), width=21, colour=False)
    assert wrapped.split("\n")[3:5] == ["", "██████"]


def test_a_word_cannot_command_the_terminal():
    text = attention_text(sentence("\x1b[2Jdog\r\n", grid=(2, 2)), width=80, colour=False)
    assert "\x1b" not in text and "\r" not in text and "�[2Jdog��" in text


def test_no_words_make_no_lines():
    assert attention_text([], width=80, colour=True) == ""


def test_the_terminal_says_its_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "15")
    assert max(map(columns, attention_text(sentence("a", "b"), colour=False).split("\n"))) == 14
    with pytest.raises(ValueError, match="width"):
        attention_text(sentence("a"), width=1)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"COLORTERM": "truecolor"}, True),
        ({"COLORTERM": "24bit"}, True),
        ({"WT_SESSION": "1"}, True),
        ({"COLORTERM": "truecolor", "NO_COLOR": "1"}, False),
        ({"COLORTERM": "truecolor", "NO_COLOR": ""}, True),  # an empty value does not count, says no-color.org
        ({"COLORTERM": "yes"}, False),
        ({}, False),
    ],
)
def test_colour_is_for_terminals_that_have_it(monkeypatch, environment, expected):
    for name in ("COLORTERM", "NO_COLOR", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal.has_true_colour(Screen()) == expected
    assert not terminal.has_true_colour(io.StringIO())
    monkeypatch.setattr("sys.stdout", Screen())
    assert ("\x1b[38;2;" in attention_text(sentence("a"), width=80)) == expected
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert "█" in attention_text(sentence("a"), width=80)


# --- animation ---


def frames(content: bytes) -> list[tuple[np.ndarray, int]]:
    gif = Image.open(io.BytesIO(content))
    assert gif.format == "GIF"
    shown = []
    for number in range(getattr(gif, "n_frames", 1)):
        gif.seek(number)
        shown.append((np.asarray(gif.convert("RGB")).astype(int), gif.info.get("duration", 0)))
    return shown


def marked(frame: np.ndarray) -> np.ndarray:
    """Columns of the frame with the colour behind the current word."""
    return np.flatnonzero((np.abs(frame - MARKED).max(2) < 12).any(0))


def test_a_gif_has_a_frame_a_word_holds_the_last_and_loops():
    content = attention_gif(Image.new("RGB", (64, 48), RED), sentence("a", "red", "dog", "runs"), (0, 0, 64, 48))
    shown = frames(content)
    assert [duration for _, duration in shown] == [600, 600, 600, 2400]
    assert Image.open(io.BytesIO(content)).info["loop"] == 0  # for ever
    assert {frame.shape for frame, _ in shown} == {shown[0][0].shape}
    assert shown[0][0].shape[1] == 320
    places = [marked(frame) for frame, _ in shown]
    assert all(left.max() < right.min() for left, right in pairwise(places))  # the mark moves on
    ink = [int((frame[240:].min(2) < 100).sum()) for frame, _ in shown]
    assert ink[0] < ink[-1]  # the caption grows


def test_a_gif_is_lit_where_the_weight_is():
    cells = [(0, 0), (3, 4), (6, 2)]
    words = [("a", planted((7, 7), *cell)) for cell in cells]
    shown = frames(attention_gif(Image.new("RGB", (210, 210), RED), words, (0, 0, 210, 210), side=210))
    for (frame, _), cell in zip(shown, cells, strict=True):
        panel = frame[:210, 15:225]  # a narrow photo stands in the middle
        assert np.abs(np.multiply(lit_middle(panel), 7) - 0.5 - cell).max() < 0.3


def test_ten_words_stay_below_a_megabyte_whatever_the_photo():
    noise = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    content = attention_gif(Image.fromarray(noise), sentence(*["word"] * 10), (0, 0, 320, 320))
    assert 100_000 < len(content) < 1_000_000
    assert len(frames(content)) == 10


def test_a_gif_keeps_the_photos_colours():
    # A gradient in 256 colours; shown whole, brightened by no more than the glow.
    x = np.linspace(0, 255, 320)
    ramp = np.stack(np.broadcast_arrays(x[None, :], x[::-1][None, :], np.full((200, 1), 90.0)), -1)
    photo = Image.fromarray(ramp.astype(np.uint8))
    (frame, _), _ = frames(attention_gif(photo, sentence("a", "b"), (0, 0, 320, 200)))
    lit = ramp + (255 - ramp) * 0.12
    assert np.abs(frame[:200] - lit).mean() < 8


def test_a_gif_of_one_word_and_of_none():
    photo = Image.new("RGB", (64, 48), RED)
    assert len(frames(attention_gif(photo, sentence("a"), (0, 0, 64, 48)))) == 1
    ((frame, _),) = frames(attention_gif(photo, [], (0, 0, 64, 48)))
    assert frame.shape == (240, 320, 3) and np.abs(frame - RED).max() < 8


@pytest.mark.parametrize("size", [(1, 1), (30, 900), (900, 30)])
@pytest.mark.parametrize("word", [LONG, "自転車に乗る人", ""])
def test_a_gif_of_any_photo_and_word_has_a_sensible_size(size, word):
    shown = frames(attention_gif(Image.new("RGB", size, RED), sentence(word, "a", word + word), (0, 0, *size)))
    height, width = shown[0][0].shape[:2]
    assert 240 <= width <= 320 and height <= 320 + 16 + 24 * 8
    assert not marked(shown[1][0][:, :2]).size and not marked(shown[1][0][:, -2:]).size


def test_a_gif_without_extent_is_refused():
    with pytest.raises(ValueError, match="side"):
        attention_gif(Image.new("RGB", (9, 9)), sentence("a"), (0, 0, 9, 9), side=0)


# --- files ---


def test_arrays_load_without_pickle(tmp_path):
    words = [("犬", planted((2, 3), 1, 2)), ("runs", planted((2, 3), 0, 0))]
    save_attention(tmp_path / "new" / "a.npz", Image.new("RGB", (60, 40)), words, (-5, 0, 65, 40), caption="犬 runs")
    with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as arrays:
        assert arrays["words"].tolist() == ["犬", "runs"]
        assert arrays["attention"].dtype == np.float32 and arrays["attention"].shape == (2, 2, 3)
        assert (arrays["attention"] == [grid for _, grid in words]).all()
        assert arrays["region"].tolist() == [-5, 0, 65, 40]
        assert arrays["photo"].tolist() == [60, 40]
        assert arrays["caption"].item() == "犬 runs"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]


def test_arrays_of_no_words(tmp_path):
    save_attention(tmp_path / "a.npz", Image.new("RGB", (60, 40)), [], (0, 0, 60, 40))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["attention"].shape[0] == len(arrays["words"]) == 0


def test_arrays_of_different_grids_are_refused(tmp_path):
    words = [("a", np.ones((2, 2))), ("b", np.ones((3, 2)))]
    with pytest.raises(ValueError, match="one grid"):
        save_attention(tmp_path / "a.npz", Image.new("RGB", (9, 9)), words, (0, 0, 9, 9))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP"), ("a.gif", "GIF")])
def test_the_name_says_what_is_written(tmp_path, name, kind):
    photo, words, region = Image.new("RGB", (60, 40), RED), sentence("a", "dog"), (0, 0, 60, 40)
    save_attention(tmp_path / name, photo, words, region, caption="a dog")
    with Image.open(tmp_path / name) as image:
        assert image.format == kind
        if kind == "PNG":
            assert image.tobytes() == attention_figure(photo, words, region, title="a dog").tobytes()
        if kind == "GIF":
            assert image.n_frames == 2


@pytest.mark.parametrize("name", ["a.txt", "a", "a.bmp", "a.npy"])
def test_another_name_is_refused_with_the_way_out(tmp_path, name):
    with pytest.raises(CaptionkitError, match=r"\.png.*\.gif.*\.npz") as caught:
        save_attention(tmp_path / name, Image.new("RGB", (9, 9)), sentence("a"), (0, 0, 9, 9))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_lists_are_json_with_short_numbers():
    lists = attention_lists(np.array([[1 / 3, 2 / 3], [np.nan, 0]], np.float32))
    assert json.loads(json.dumps(lists, allow_nan=False)) == lists == [[0.3333, 0.6667], [0.0, 0.0]]


# --- where the grid lies ---


def offset(pictures: np.ndarray, mirrored: np.ndarray) -> float:
    """How far right of where it is drawn the grid lies, in cells.

    If a cell's features are about a place `s` cells to the right of its middle, then in the mirrored image they are
    about one as far to the left: mirrored back, the features fit best when moved by 2 s. `pictures` and `mirrored` are
    features [B,rows,columns,D], the second of mirrored images and mirrored back.
    """
    mean = pictures.mean((0, 1, 2))
    pictures, mirrored = pictures - mean, mirrored - mean
    fits = []
    for step in (-1, 0, 1):
        one, other = pictures[:, :, 1:-1], mirrored[:, :, 1 + step : pictures.shape[2] - 1 + step]
        fits.append((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))
    before, at, after = fits
    assert at > max(before, after) - 0.05
    return (before - after) / (before - 2 * at + after) / 4  # half of where the parabola through them is highest


def test_the_bundled_models_grid_lies_where_it_is_drawn():
    """ "SAME" padding would suggest half a cell further down and right; training makes up for most of that."""
    pytest.importorskip("skimage", reason="the extra `demo` is not installed")
    import captionkit

    captioner = captionkit.load(threads=1)
    rows, columns_ = captioner.folder.grid
    pictures = np.stack([preprocess(photo, Preprocessing()) for _, photo in sample_photos()])

    def features(images: np.ndarray) -> np.ndarray:
        memory = captioner.stepper.begin(np.ascontiguousarray(images))["memory.keys"]
        return memory.reshape(len(images), rows, columns_, -1)

    plain = features(pictures)
    across = offset(plain, features(pictures[..., ::-1])[:, :, ::-1])
    assert abs(across) < 0.25
    # The measure sees a shift: images moved by 16 pixels, half a cell, before they are mirrored, count as s = -1/4.
    moved = features(np.roll(pictures[..., ::-1], 16, axis=3))[:, :, ::-1]
    assert across - offset(plain, moved) > 0.12
