"""The page that captions images in the browser: its pixels and captions against captionkit's own."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captionkit
from captionkit.data.images import open_image, preprocess, preprocess_bytes
from extras import require

require("playwright", "playwright is not installed")
require("skimage", "scikit-image is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no Chromium to open the page in", allow_module_level=True)
if shutil.which("npm") is None:
    pytest.skip("there is no npm to fetch onnxruntime-web", allow_module_level=True)

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "examples" / "browser"
DIST = "node_modules/onnxruntime-web/dist"
#: what the page loads of onnxruntime-web
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with the bundled model and what it needs of onnxruntime-web, as one publishes it."""
    root = tmp_path_factory.mktemp("browser")
    wanted = json.loads((PAGE / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    pack = ["npm", "pack", f"onnxruntime-web@{wanted}", "--prefer-offline", "--silent"]
    fetched = subprocess.run(pack, cwd=root, capture_output=True, text=True, check=False, timeout=300)
    if fetched.returncode:
        pytest.skip(f"npm cannot fetch onnxruntime-web: {fetched.stderr.strip()[-200:]}")
    site = root / "site"
    (site / DIST).mkdir(parents=True)
    with tarfile.open(root / fetched.stdout.split()[-1], "r|gz") as archive:
        for member in archive:
            name = Path(member.name).name
            if name in RUNTIME and (content := archive.extractfile(member)):
                (site / DIST / name).write_bytes(content.read())
    for file in (*PAGE.glob("*.js"), PAGE / "index.html"):
        shutil.copy(file, site)
    captionkit.load().save_pretrained(site / "model")
    return site


class _Handler(http.server.SimpleHTTPRequestHandler):
    #: whether to send what lets a page use threads
    isolated = False

    def log_message(self, *_: object) -> None:
        pass

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


class _Isolated(_Handler):
    isolated = True


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


class Opened:
    """The page at the root of `site`; `strays` are its errors and what it asked of other hosts."""

    def __init__(self, browser: Any, site: Path, handler: type[_Handler] = _Handler) -> None:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(site)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.page = browser.new_page()
        self.page.set_default_timeout(60_000)
        self.strays: list[str] = []
        self.page.on("pageerror", lambda error: self.strays.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))
        self.page.goto(self.url)

    def _note(self, url: str) -> None:
        if not url.startswith((self.url, "blob:", "data:")):
            self.strays.append(url)

    def status(self, *wanted: str) -> str:
        """Wait for a status that has one of the texts `wanted`, and return it."""
        has = "wanted => wanted.some(text => document.querySelector('#status').innerText.includes(text))"
        self.page.wait_for_function(has, arg=list(wanted))
        return self.page.inner_text("#status")

    def caption(self, image: Path) -> str:
        self.page.set_input_files("#file", str(image))
        said = self.status("seconds.", image.name)
        assert "seconds." in said, said
        return self.page.inner_text("#caption")

    def close(self) -> None:
        self.page.close()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def opened(browser: Any, site: Path) -> Iterator[Opened]:
    opened = Opened(browser, site)
    yield opened
    opened.close()
    assert opened.strays == []


@pytest.fixture(scope="module")
def model() -> captionkit.Captioner:
    return captionkit.load()


@pytest.fixture(scope="module")
def photos() -> Path:
    import skimage

    return Path(skimage.__file__).parent / "data"


@pytest.mark.parametrize("name", ["rocket.jpg", "chelsea.png", "coffee.png"])
def test_a_photo_gets_the_caption_that_captionkit_gives(
    opened: Opened, photos: Path, model: captionkit.Captioner, name: str
) -> None:
    said = model.caption(photos / name).text
    assert opened.caption(photos / name) == said
    assert opened.page.get_attribute("#photo", "alt") == said


def test_a_file_that_is_no_image_is_named_and_the_next_one_captioned(
    opened: Opened, photos: Path, model: captionkit.Captioner, tmp_path: Path
) -> None:
    (tmp_path / "notes.jpg").write_text("no image")
    opened.page.set_input_files("#file", str(tmp_path / "notes.jpg"))
    assert opened.status("notes.jpg") == (
        "notes.jpg: the browser cannot open this file as an image; save it as JPEG or PNG"
    )
    assert opened.caption(photos / "chelsea.png") == model.caption(photos / "chelsea.png").text


def test_with_threads(browser: Any, site: Path, photos: Path, model: captionkit.Captioner) -> None:
    opened = Opened(browser, site, _Isolated)
    try:
        assert opened.page.evaluate("crossOriginIsolated")
        assert opened.caption(photos / "rocket.jpg") == model.caption(photos / "rocket.jpg").text
    finally:
        opened.close()


def _png(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", **options)
    return buffer.getvalue()


def _images() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (150, 301, 4), dtype=np.uint8)
    noise[..., 3] = np.where(noise[..., 3] > 127, 255, 0)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "large": _png(np.kron(noise[..., :3], np.ones((2, 1, 1), np.uint8))),  # from six-fold, Pillow reduces first
        "small": _png(noise[:20, :11, :3]),
        "grey": _png(noise[..., 0]),
        "transparent": _png(noise),
        "turned": _png(noise[..., :3], exif=turned.tobytes()),
    }


_PIXELS = """async ([image, preprocessing]) => {
  const { decode, resize, normalize } = await import("/pixels.js");
  const bytes = resize(await decode(new Blob([Uint8Array.from(atob(image), c => c.charCodeAt(0))])), preprocessing);
  return [Array.from(bytes), Array.from(normalize(bytes, preprocessing))];
}"""


@pytest.mark.parametrize(("fit", "interpolation"), [("squash", "bicubic"), ("crop", "bilinear"), ("crop", "lanczos")])
def test_pixels_are_captionkits_to_the_byte(
    opened: Opened, model: captionkit.Captioner, fit: Any, interpolation: Any
) -> None:
    given = {**model.preprocessing.to_dict(), "fit": fit, "interpolation": interpolation, "height": 60, "width": 80}
    preprocessing = type(model.preprocessing).from_dict(given)
    for name, content in _images().items():
        image = open_image(content)
        seen, normal = opened.page.evaluate(_PIXELS, [base64.b64encode(content).decode(), given])
        wanted = preprocess_bytes(image, preprocessing)
        np.testing.assert_array_equal(np.array(seen).reshape(60, 80, 4)[..., :3], wanted[..., :3], err_msg=name)
        np.testing.assert_allclose(np.reshape(normal, (3, 60, 80)), preprocess(image, preprocessing), atol=1e-6)


_SEARCH = """async ([table, decoding, special]) => {
  const { beamSearch } = await import("/search.js");
  const step = async (tokens, parents, state, ranks) => {
    const rows = tokens.map(token => table[token].slice(0, ranks));
    return { logProbs: rows.map(row => row.map(([value]) => value)), ids: rows.map(row => row.map(([, id]) => id)) };
  };
  return beamSearch(step, {}, decoding, { ...special, banned: new Set(special.banned) });
}"""


class _Table:
    """A stepper whose next word depends on the last one alone."""

    takes_bytes, capabilities = False, frozenset(("constraints",))

    def __init__(self, log_probs: np.ndarray) -> None:
        self.order = np.argsort(-log_probs, 1, kind="stable")
        self.ranked = np.take_along_axis(log_probs, self.order, 1)

    def step(self, tokens: np.ndarray, parents: np.ndarray, state: Any, top_k: int) -> tuple[Any, ...]:
        empty = np.zeros((*tokens.shape, 0), np.float32)
        return self.ranked[tokens][..., :top_k], self.order[tokens][..., :top_k], empty, state


def test_the_search_is_captionkits(opened: Opened) -> None:
    from captionkit.data.special_tokens import SpecialTokens
    from captionkit.inference.search import Begun, Decoding, search

    generator = np.random.default_rng(1)
    special = SpecialTokens((1,), 2, frozenset((0, 1, 3)))
    settings: list[dict[str, Any]] = [
        {"num_beams": 1},
        {"num_beams": 3, "length_penalty": 0.7, "no_repeat_ngram_size": 2, "early_stop_horizon": 1},
        {"num_beams": 4, "no_repeat_ngram_size": 1, "min_length": 3, "max_length": 6},
        {"num_beams": 2, "no_repeat_ngram_size": 3, "max_length": 2, "length_penalty": 0},
        {"num_beams": 5, "early_stop_horizon": 3, "max_length": 12, "length_penalty": 2},
    ]
    cut = 0
    for case in range(40):
        decoding = Decoding(**settings[case % len(settings)])
        scores = generator.normal(size=(9, 9)) * 2
        log_probs = (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)
        stepper = _Table(log_probs)
        ((best, *_),) = search(stepper, Begun({}, np.zeros((1, 1))), decoding, special)  # type: ignore[arg-type]
        table = [
            [[float(value), int(token)] for value, token in zip(*rows, strict=True)]
            for rows in zip(stepper.ranked, stepper.order, strict=True)
        ]
        asked = {"start": 1, "end": 2, "banned": [0, 1, 3]}
        assert opened.page.evaluate(_SEARCH, [table, decoding.to_dict(), asked]) == best.tokens.tolist(), case
        cut += not best.finished
    assert 0 < cut < 40


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("encoder.onnx", None, "model/encoder.onnx: cannot be fetched (404)"),
        ("tokenizer.json", '{"model": {"type": "BPE"}}', "of BPE tokens; this page spells words only"),
        ("config.json", "{}", "not of a captionkit model"),
        ("config.json", '{"preprocessing": {}, "decoding": {"prefix": "a"}}', "decodes with prefix, which"),
    ],
)
def test_a_model_that_cannot_be_used_is_named(
    browser: Any, site: Path, tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    copy = shutil.copytree(site, tmp_path / "copy", ignore=lambda _, names: [n for n in names if "safetensors" in n])
    (copy / "model" / file).unlink()
    if content is not None:
        (copy / "model" / file).write_text(content)
    opened = Opened(browser, copy)
    try:
        assert message in opened.status(file) and "\n" not in opened.status(file)
    finally:
        opened.close()


def test_without_the_runtime_the_page_says_what_to_install(browser: Any, site: Path, tmp_path: Path) -> None:
    for file in (*PAGE.glob("*.js"), PAGE / "index.html"):
        shutil.copy(file, tmp_path)
    opened = Opened(browser, tmp_path)
    try:
        assert "is onnxruntime-web installed (npm install)?" in opened.status("npm install")
    finally:
        opened.close()
