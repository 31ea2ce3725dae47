"""What the web page is made of, without a browser: veils, colours, links, rules, the model card and previews."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captionkit
from captionkit.viz.overlay import overlays, veil

BROWSER = {"Accept": "text/html"}
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


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    testing = pytest.importorskip("fastapi.testclient", reason="the extra `serve` is not installed")
    from captionkit.serve.app import create_app
    from captionkit.serve.settings import Settings

    with testing.TestClient(create_app(captionkit.load(threads=1), Settings(max_pixels=10_000))) as client:
        yield client


def test_all_that_the_page_names_is_there_and_nothing_is_elsewhere(client: Any) -> None:
    reply = client.get("/", headers=BROWSER)
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', reply.text)
    own = [link for link in links if not link.startswith(("https://", "http://"))]
    assert len(own) >= 12
    for link in own:
        assert client.get(f"/{link}").status_code == client.head(f"/{link}").status_code == 200, link
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]+)"', reply.text)
    assert loaded and all(link.startswith("ui/") for link in loaded)
    kept = client.get("/ui/page.js", headers={"If-None-Match": client.get("/ui/page.js").headers["ETag"]})
    assert kept.status_code == 304
    for lost in ("/ui/nothing", "/ui/../page.py", "/ui/%2e%2e/page.py", "/ui/examples/README.md/x"):
        assert client.get(lost).json()["error"]["status"] == 404, lost
    assert client.delete("/").headers["Allow"] == "GET, HEAD, OPTIONS, POST"


def test_it_lets_nothing_in_that_it_does_not_need(client: Any) -> None:
    reply = client.get("/", headers=BROWSER)
    rules = dict(rule.split(" ", 1) for rule in reply.headers["Content-Security-Policy"].split("; "))
    assert rules["default-src"] == "'none'" and rules["script-src"] == rules["style-src"] == "'self'"
    assert "unsafe" not in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.findall(r"<(?:style|script)>|\sstyle=|\son\w+=", reply.text)


def test_a_model_card_can_do_no_harm(tmp_path: Path) -> None:
    from captionkit.serve.ui.page import _card

    text = "---\na: b\n---\n# Card\n<script>x</script> ![i](https://e.org/i.png) [a](../b) [c](https://e.org)\n\n|a|\n|-:|\n|1|\n"
    (tmp_path / "README.md").write_text(text)
    model = captionkit.load(threads=1)
    model.folder = SimpleNamespace(path=tmp_path)
    card = _card(model)
    assert card.startswith("<h2>Card</h2>") and "&lt;script&gt;" in card and '<a href="https://e.org">c</a>' in card
    assert not re.findall(r"<img|<script|style=|\.\./b", card)
    (tmp_path / "README.md").unlink()
    assert "no card" in _card(model)


def test_a_preview_is_a_small_upright_jpeg_within_the_services_limits(client: Any) -> None:
    photo = Image.new("RGB", (90, 60), (200, 0, 0))
    photo.putpixel((0, 0), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    photo.save(file, "TIFF", exif=exif)
    reply = client.post("/ui/preview", content=file.getvalue())
    assert reply.headers["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(reply.content)).size == (60, 90)
    large = io.BytesIO()
    Image.new("RGB", (101, 100)).save(large, "PNG")
    for body, status in ((b"", 422), (b"no image", 422), (large.getvalue(), 413)):
        reply = client.post("/ui/preview", content=body)
        assert reply.status_code == status and reply.json()["error"]["message"]
