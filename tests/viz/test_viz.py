"""Attention figures, caption pages, training curves and sample photos."""

from __future__ import annotations

import base64
import importlib.util
import io
import math
import re
import socket
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from captionkit.data.images import Preprocessing, preprocess
from captionkit.errors import CaptionkitError
from captionkit.viz import (
    Card,
    attention,
    attention_figure,
    captions_page,
    draw_curves,
    sample_photos,
    text_drawing,
    write_page,
)
from captionkit.viz.curves import curve_drawings
from captionkit.viz.panels import smooth as smooth_

RED = (255, 0, 0)


def planted(grid: tuple[int, int], *cell: int) -> np.ndarray:
    weights = np.zeros(grid, np.float32)
    weights[cell] = 1
    return weights


def runs(mask: np.ndarray) -> list[slice]:
    """The stretches of a line where `mask` holds."""
    places = np.flatnonzero(mask)
    return [slice(part[0], part[-1] + 1) for part in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)]


def panels(figure: Image.Image) -> list[np.ndarray]:
    """The panels of a red photo, [h, w, 3] each, found as what is far from the white of the figure."""
    pixels = np.asarray(figure).astype(int)
    inside = pixels[:, :, 2] < 100
    return [pixels[row, column] for row in runs(inside.any(axis=1)) for column in runs(inside[row].any(axis=0))]


def ink(figure: Image.Image) -> int:
    return int((255 - np.asarray(figure.convert("L")).astype(int)).sum())


# --- attention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(600, 400), (300, 420)])
@pytest.mark.parametrize("grid", [(7, 7), (4, 6)])
def test_attention_is_lit_where_the_model_sees_that_part_of_the_photo(fit, size, grid):
    seen = Preprocessing(height=224, width=224, fit=fit)
    region = seen.region(*size)
    for across, down in [(0.5, 0.5), (0.3, 0.27), (0.72, 0.61)]:
        # A white dot tells, by way of the model's own preprocessing, in which cell this point of the photo arrives.
        x, y = across * size[0], down * size[1]
        dot = Image.new("RGB", size)
        ImageDraw.Draw(dot).ellipse((x - 4, y - 4, x + 4, y + 4), "white")
        view = preprocess(dot, seen)[0]
        view[view == 0] = view.min()  # the padding
        row, column = np.unravel_index(view.argmax(), view.shape)
        cell = row * grid[0] // 224, column * grid[1] // 224

        figure = attention_figure(Image.new("RGB", size, RED), [("", planted(grid, *cell))], region)
        photo, lit = panels(figure)
        assert (photo == RED).all()
        assert lit.shape == photo.shape
        height, width = lit.shape[:2]
        bright = lit[:, :, 0] > 255 * 0.7
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        cell_width = (region[2] - region[0]) / grid[1] * width / size[0]
        cell_height = (region[3] - region[1]) / grid[0] * height / size[1]
        left = (region[0] + cell[1] * (region[2] - region[0]) / grid[1]) * width / size[0]
        top = (region[1] + cell[0] * (region[3] - region[1]) / grid[0]) * height / size[1]
        assert left - 1 <= columns[0] < columns[-1] <= left + cell_width + 1
        assert top - 1 <= rows[0] < rows[-1] <= top + cell_height + 1
        assert bright.sum() > 0.5 * cell_width * cell_height
        assert columns[0] - 0.2 * cell_width <= across * width <= columns[-1] + 0.2 * cell_width
        assert rows[0] - 0.2 * cell_height <= down * height <= rows[-1] + 0.2 * cell_height


def test_what_the_model_did_not_see_stays_dark():
    photo = Image.new("RGB", (600, 400), RED)
    _, lit = panels(attention_figure(photo, [("", np.ones((7, 7)))], (100, 0, 500, 400)))
    sixth = lit.shape[1] // 6
    assert lit[:, : sixth - 1, 0].max() < 0.3 * 255
    assert lit[:, -sixth + 1 :, 0].max() < 0.3 * 255
    assert lit[:, sixth + 1 : -sixth - 1, 0].min() == 255


def test_attention_on_the_padding_lights_nothing():
    photo = Image.new("RGB", (600, 300), RED)
    _, lit = panels(attention_figure(photo, [("", planted((8, 8), 0, 4))], (0, -150, 600, 450)))
    assert lit[:, :, 0].max() < 0.4 * 255


@pytest.mark.parametrize("empty", [np.zeros((7, 7)), np.full((7, 7), np.nan)])
def test_attention_without_weight_is_dark(empty):
    _, lit = panels(attention_figure(Image.new("RGB", (60, 60), RED), [("", empty)], (0, 0, 60, 60)))
    assert lit[:, :, 0].max() < 0.3 * 255


@pytest.mark.parametrize("size", [(3000, 2000), (4000, 300), (200, 2600), (1, 1), (224, 224)])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_figures_have_a_sensible_size_and_nothing_at_their_edges(size, count):
    words = [("skateboarding", np.ones((7, 7)))] * count
    figure = attention_figure(Image.new("RGB", size, RED), words, (0, 0, *size), title="a long title " * 12)
    assert 150 < max(figure.size) < 2600
    assert figure.width < 2000
    pixels = np.asarray(figure)
    for edge in (pixels[:6], pixels[-6:], pixels[:, :6], pixels[:, -6:]):
        assert (edge == 255).all()


def test_no_photo_of_twenty_one_is_lost():
    figure = attention_figure(Image.new("RGB", (100, 100), RED), [("", np.ones((2, 2)))] * 20, (0, 0, 100, 100))
    assert (np.asarray(figure)[:, :, 1] < 128).sum() == 21 * 240 * 240


@pytest.mark.parametrize("size", [(100, 100), (50, 400), (900, 60)])
def test_long_words_are_drawn_whole(size):
    word = "Donaudampfschifffahrtsgesellschaftskapitaen"
    blank, photo = (0, 0, *size), Image.new("RGB", size, "white")
    drawn = ink(attention_figure(photo, [(word, np.ones((2, 2)))], blank))
    line = Image.new("RGB", (1000, 60), "white")
    ImageDraw.Draw(line).text((10, 10), word, text_drawing.INK, ImageFont.load_default(attention.FONT_SIZE))
    assert drawn == pytest.approx(ink(line), rel=0.05)


def label_of(word: str) -> bytes:
    return attention_figure(Image.new("RGB", (9, 9)), [(word, np.ones((2, 2)))], (0, 0, 9, 9)).tobytes()


def test_words_beyond_ascii_use_a_font_of_the_system():
    if not any(map(text_drawing.system_font, text_drawing.SYSTEM_FONTS)):
        pytest.skip("none of the fonts that are looked for is installed here")
    assert label_of("ж") != label_of("ф")


def test_words_without_a_font_are_still_drawn(monkeypatch):
    monkeypatch.setattr(text_drawing, "system_font", lambda name: None)
    assert label_of("ж") == label_of("ф") != label_of("")


@pytest.mark.parametrize("grid", [np.ones(49), np.ones((0, 7)), np.ones((1, 7, 7))])
def test_attention_of_another_shape_is_refused(grid):
    with pytest.raises(ValueError, match="attention of shape"):
        attention_figure(Image.new("RGB", (9, 9)), [("a", grid)], (0, 0, 9, 9))


def test_an_empty_region_is_refused():
    with pytest.raises(ValueError, match="empty"):
        attention_figure(Image.new("RGB", (9, 9)), [("a", np.ones((2, 2)))], (5, 0, 5, 9))


# --- page -----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Text, images and addresses of a page; a tag that is not closed where it should be fails."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        self.addresses += [values[key] for key in ("src", "href", "srcset", "action", "data") if key in values]
        assert not any(key.startswith("on") for key in values)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def test_a_page_escapes_everything_and_fetches_nothing():
    evil = "\"'><script>alert('%s')</script><img src=http://example.org/x onerror=alert(1)>&amp;"
    places = ("title", "note", "caption", "other", "reference", "label", "error")
    text = {place: evil % place for place in places}
    photo = Image.new("RGB", (40, 30), RED)
    cards = [
        Card(
            photo=photo,
            caption=text["caption"],
            alternatives=[text["other"]],
            references=[text["reference"]],
            label=text["label"],
            attention=photo,
        ),
        Card(error=text["error"]),
    ]
    page = Page(captions_page(text["title"], cards, note=text["note"]))
    assert "script" not in page.tags
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert all(value in page.text for value in text.values())
    assert page.images[0]["alt"] == text["label"]


def test_a_page_embeds_its_pictures_at_a_bounded_size():
    photo = Image.new("RGB", (3000, 1000), RED)
    page = Page(captions_page("t", [Card(photo=photo, attention=Image.new("RGB", (5000, 100), RED))]))
    assert photo.size == (3000, 1000)
    pictures = [Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) for image in page.images]
    assert [(picture.format, picture.size) for picture in pictures] == [("JPEG", (800, 267)), ("JPEG", (2000, 40))]
    assert all(image["alt"] for image in page.images)
    assert np.abs(np.asarray(pictures[0]).astype(int) - RED).max() < 8


def test_a_page_says_what_there_is():
    photo = Image.new("RGB", (8, 8))
    cards = [Card(photo=photo, caption="a dog", confidence=0.734), Card(label="b.jpg", error="b.jpg: is empty")]
    page = Page(captions_page("Demo", cards))
    assert "73% confident" in page.text
    assert "2 photos, 1 without a caption" in page.text
    assert "b.jpg: is empty" in page.text
    assert "Other captions" not in page.text and "Written by people" not in page.text
    assert len(page.images) == 1
    assert "0 photos" in Page(captions_page("Empty", [])).text


def test_a_page_is_written_with_any_file_name(tmp_path):
    path = tmp_path / "new" / "page.html"
    write_page(path, captions_page("犬", [Card(caption="một con chó", label="caf\udce9.jpg")]))
    text = path.read_text(encoding="utf-8")
    assert "một con chó" in text and "caf?.jpg" in text and "犬" in text
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


# --- curves ---------------------------------------------------------------------------------------------------------


def training(steps: int, **changes) -> list[dict]:
    row = {"kind": "train", "loss": 3.0, "lr_decoder": 1e-3, "lr_encoder": 1e-5, "tokens_per_second": 1e4}
    return [{**row, "step": step, "epoch": step / 10, **changes} for step in range(1, steps + 1)]


def evaluation(step: int, value: float, best: bool) -> dict:
    return {"kind": "eval", "step": step, "epoch": step / 10, "val_loss": value, "cider": 3.5 - value, "best": best}


RUNS = {
    "empty": [],
    "one row": training(1),
    "no evaluation": training(30),
    "no training": [evaluation(5, 3.0, True)],
    "nothing finite": [*training(9, loss=math.nan, lr_decoder=0.0, lr_encoder=0.0), evaluation(9, math.nan, False)],
    "null for NaN": training(9, loss=None),
    "whole": [*training(60), evaluation(20, 3.1, True), evaluation(40, 3.0, True), evaluation(60, 3.2, False)],
}


def has_colour(png: Image.Image, colour: str) -> bool:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((np.abs(np.asarray(png.convert("RGB")).astype(int) - wanted).max(axis=2) < 8).sum() > 20)


#: what other tests of the process have left open may be swept up while one of these runs
OWN_WARNINGS = ("error", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.filterwarnings(*OWN_WARNINGS)
def test_curves_of_any_run_are_drawn(tmp_path, name):
    panels = pytest.importorskip("captionkit.viz.panels")
    pytest.importorskip("matplotlib")
    draw_curves(RUNS[name], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as png:
        assert png.format == "PNG"
        assert png.width >= 900
        assert has_colour(png, panels.TRAIN) == (name not in ("empty", "no training"))
        assert has_colour(png, panels.VALIDATION) == (name in ("no training", "nothing finite", "whole"))
        assert has_colour(png, panels.SCORE) == (name in ("no training", "whole"))
        assert has_colour(png, panels.ENCODER) == (name in ("one row", "no evaluation", "null for NaN", "whole"))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.filterwarnings(*OWN_WARNINGS)
def test_runs_are_compared_in_one_picture(tmp_path):
    curves = pytest.importorskip("captionkit.viz.curves")
    pytest.importorskip("matplotlib")
    curves.compare_curves(RUNS, tmp_path / "compared.png")
    curves.compare_curves({"whole": RUNS["whole"]}, tmp_path / "one.png")
    with Image.open(tmp_path / "compared.png") as png:
        assert has_colour(png, "#1f77b4") is False  # the first run is empty
        assert has_colour(png, "#ff7f0e") and has_colour(png, "#e377c2")  # the second and the last
    with Image.open(tmp_path / "one.png") as png:
        assert has_colour(png, "#1f77b4")


def test_a_step_logged_twice_counts_once(tmp_path):
    pytest.importorskip("matplotlib")
    draw_curves([*training(9, loss=90.0), *training(9)], tmp_path / "resumed.png")
    draw_curves(training(9), tmp_path / "plain.png")
    assert (tmp_path / "resumed.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_smoothing_averages_without_lag_or_filling_gaps():
    ramp = np.linspace(9, 2, 1000)
    noisy = ramp + np.random.default_rng(0).normal(0, 0.3, 1000)
    noisy[500:503] = np.nan
    smooth = smooth_(noisy)
    assert np.isnan(smooth[500:503]).all() and np.isfinite(np.delete(smooth, [500, 501, 502])).all()
    assert np.nanmax(np.abs(smooth - ramp)[40:-40]) < 0.25
    assert smooth_(np.array([5.0])) == [5.0]


REWARDED = [{**row, "reward": 0.5 + row["step"] / 100, "words": 9.0, "distinct": 0.7} for row in training(60)]


def test_rewards_lengths_and_variety_are_drawn_where_they_are_recorded(tmp_path):
    panels = pytest.importorskip("captionkit.viz.panels")
    pytest.importorskip("matplotlib")
    usual = ["Loss", "CIDEr-D of the validation captions", "Learning rate"]
    assert [panel.title for panel in panels.panels_of(training(9), [])] == usual
    found = [panel.title for panel in panels.panels_of(REWARDED, [])]
    assert found == [*usual[:2], "Reward of sampled captions", "Length of the captions", "Different captions", usual[2]]
    draw_curves(REWARDED, tmp_path / "rewarded.png")
    draw_curves(training(60), tmp_path / "plain.png")
    with Image.open(tmp_path / "rewarded.png") as rewarded, Image.open(tmp_path / "plain.png") as plain:
        assert rewarded.height > plain.height * 1.5


def test_drawings_of_curves_say_what_they_show_and_need_nothing_else():
    pytest.importorskip("matplotlib")
    rows = [*REWARDED, evaluation(30, 3.1, True), evaluation(60, math.nan, False)]
    drawings = {title: (alt, svg.decode()) for title, alt, svg in curve_drawings(rows)}
    assert list(drawings) == [title for title, _, _ in curve_drawings(rows)] and "Learning rate" in drawings
    alt, svg = drawings["Reward of sampled captions"]
    assert "0.51 at step 1, 1.1 at step 60" in alt
    assert "val_loss: 3.1 at step 30, 3.1 at step 30" in drawings["Loss"][0]  # what is not finite is no end
    assert "currentColor" in svg and "prefers-color-scheme: dark" in svg and "#010203" not in svg
    assert not re.search(r"(href|src)=.https?:", svg)
    assert [svg for _, _, svg in curve_drawings(rows)] == [svg for _, _, svg in curve_drawings(rows)]
    assert curve_drawings([]) == []


def test_curves_without_matplotlib_name_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CaptionkitError, match=r"captionkit\[plot\]"):
        draw_curves(training(3), tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_drawing_loads_only_what_it_needs(tmp_path):
    program = f"""
import sys
from captionkit.viz import draw_curves
heavy = {{"matplotlib", "skimage", "torch", "onnxruntime"}} & set(sys.modules)
assert not heavy, heavy
try:
    import matplotlib
except ImportError:
    sys.exit()
draw_curves({training(2)!r}, {str(tmp_path / "c.png")!r})
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --- samples --------------------------------------------------------------------------------------------------------


def test_sample_photos_come_from_the_installed_package_alone(monkeypatch):
    if importlib.util.find_spec("skimage") is None:
        pytest.skip("scikit-image is not installed")

    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    photos = sample_photos()
    assert len(photos) == 6
    assert len({name for name, _ in photos}) == 6
    for name, photo in photos:
        assert photo.mode == "RGB" and min(photo.size) >= 300, name
        assert np.asarray(photo).std() > 20, name


def test_without_samples_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CaptionkitError, match=r"pip install 'captionkit\[demo\]'"):
        sample_photos()
