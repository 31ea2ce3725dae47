"""What the web page is made of, without a browser: veils, words for places, colours, and the API without the page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import captionkit
from captionkit.viz.overlay import overlays, veil

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("shape", [(7, 7), (4, 9)])
def test_a_veil_over_a_photo_is_the_photo_as_overlays_draws_it(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(1)
    grid = generator.random(shape, dtype=np.float32) ** 3
    laid = veil(grid)
    photo = Image.fromarray(generator.integers(0, 256, (laid.height, laid.width, 3), dtype=np.uint8))
    composed = Image.alpha_composite(photo.convert("RGBA"), laid.convert("RGBA")).convert("RGB")
    _, (drawn,) = overlays(photo, [grid], (0, 0, *photo.size), photo.size)
    assert np.abs(np.asarray(composed, int) - np.asarray(drawn, int)).max() <= 2


def test_where_the_model_looked_in_words() -> None:
    looked_at = pytest.importorskip("captionkit.serve.ui.cards").looked_at
    places = {(0, 0): "at the top left", (3, 3): "at the middle", (6, 3): "at the bottom", (3, 6): "at the right"}
    for cell, place in places.items():
        grid = np.full((7, 7), 0.01, np.float32)
        grid[cell] = 0.5
        assert looked_at(grid) == place
    assert looked_at(np.full((7, 7), 1 / 49, np.float32)) == looked_at(np.zeros((7, 7))) == "all over the photo"


def test_its_colours_can_be_read() -> None:
    """WCAG 2: contrast of 4.5 between a text and what it stands on, in light and in dark."""
    style = (ROOT / "src" / "captionkit" / "serve" / "ui" / "static" / "page.css").read_text()
    themes = re.findall(r"\{[^}]*--ck-accent:[^}]*\}", style)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--ck-(\w+): (#\w+)", theme))
        pairs = [("ink", "card"), ("soft", "card"), ("accent", "card"), ("bad", "card"), ("on", "accent")]
        for text, ground in pairs:
            light, dark = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.usefixtures("without_page")
def test_without_gradio_the_api_stands_alone_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    fastapi = pytest.importorskip("fastapi.testclient", reason="the extra `serve` is not installed")
    from captionkit.serve.app import create_app
    from captionkit.serve.settings import Settings

    caplog.set_level("INFO", "captionkit")
    with fastapi.TestClient(create_app(captionkit.load(threads=1), Settings())) as client:
        assert "/v1/captions" in client.get("/", headers={"Accept": "text/html"}).text
        assert client.get("/gradio_api/info").status_code == 404
    assert "the API alone, without the web page; `pip install 'captionkit[page]'` brings that" in caplog.messages
