"""The web page in a real browser: what people see, hear and can do, wide, narrow and by keyboard."""

from __future__ import annotations

import base64
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captionkit
from captionkit.publish.alt_text import alt_text
from captionkit.viz.overlay import veil
from extras import require
from serving import Server, started

require("fastapi", "the extra `serve` is not installed")
require("playwright", "playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no Chromium to open the page in", allow_module_level=True)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "src" / "captionkit" / "assets" / "examples"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("page") / "desk", "--timeout", 120) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def opened(browser: Any, server: Server, **options: Any) -> Any:
    """The page in a window of its own, in which every error, every request to elsewhere and everything that its
    Content-Security-Policy forbids is a failure."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.strays = []
    page.on("request", lambda request: None if _is_ours(request.url, server) else page.strays.append(request.url))
    page.on("pageerror", lambda error: page.strays.append(str(error)))
    page.on("console", lambda said: page.strays.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(server.url)
    return page


def _is_ours(url: str, server: Server) -> bool:
    return url.startswith((server.url, "data:", "blob:"))


@pytest.fixture(scope="module")
def wide(browser: Any, server: Server) -> Iterator[Any]:
    page = opened(browser, server, permissions=["camera", "clipboard-read", "clipboard-write"])
    yield page
    assert page.strays == []


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever is done with the page, the server's log has no traceback after it."""
    yield
    if "wide" in request.fixturenames:
        assert "Traceback" not in request.getfixturevalue("server").log


def give(page: Any, *photos: Path, done: str = "captioned") -> None:
    page.set_input_files(".ck-drop input[type=file]", [str(photo) for photo in photos])
    settled(page, photos[0].name, done)


def settled(page: Any, name: str, done: str = "captioned") -> None:
    """Wait until the first card is that of `name` and the status says that all is done."""
    until(page, "([name, done]) => document.querySelector('.ck-card')?.innerText.includes(name)"
          " && document.querySelector('#ck-status').innerText.includes(done)", [name, done])  # fmt: skip


def until(page: Any, condition: str, argument: Any = None) -> None:
    """Wait until a condition holds; playwright's own way to wait needs `eval`, which the page forbids."""
    end = time.monotonic() + 30
    while not page.evaluate(condition, argument):
        assert time.monotonic() < end, condition
        time.sleep(0.05)


def opacity(page: Any, value: str) -> None:
    until(page, "value => getComputedStyle(document.querySelector('.ck-veil')).opacity === value", value)


def test_a_photo_gets_the_models_own_captions(wide: Any, server: Server, model: captionkit.Captioner) -> None:
    give(wide, EXAMPLES / "camera.jpg")
    said = model.caption(EXAMPLES / "camera.jpg", num_captions=3)
    best, *others = wide.locator(".ck-words").all()
    assert best.inner_text().split() == said.text.split()
    assert best.get_attribute("aria-label") == wide.locator(".ck-photo > img").get_attribute("alt") == said.text
    assert [other.get_attribute("aria-label") for other in others] == [other.text for other in said.alternatives]
    assert model.sure_from is not None
    told = "not sure" if said.confidence < model.sure_from else f"{said.confidence:.0%} sure"
    assert wide.locator(".ck-best .ck-sure").inner_text().startswith(told)
    assert "POST /v1/captions" in server.log and said.text in server.log


def test_hovering_a_word_lights_the_photo_where_the_model_looked(wide: Any, model: captionkit.Captioner) -> None:
    give(wide, EXAMPLES / "camera.jpg")
    overlay, line = wide.locator(".ck-veil"), wide.locator(".ck-looked")
    hint = line.inner_text()
    assert overlay.evaluate("node => getComputedStyle(node).opacity") == "0"
    seen = set()
    said = model.caption(EXAMPLES / "camera.jpg")
    for word, button in zip(said.words, wide.locator(".ck-best .ck-word").all(), strict=True):
        button.hover()
        assert line.inner_text().startswith(f"{word.text}: {word.confidence:.0%} sure, looked ")
        drawn = veiled_pixels(wide)
        expected = np.asarray(veil(word.attention), float)
        assert drawn[..., 3] == pytest.approx(expected[..., 1], abs=2)
        # what a canvas keeps of a colour is its product with alpha
        assert drawn[..., 0] * drawn[..., 3] / 255 == pytest.approx(expected.prod(-1) / 255, abs=2)
        seen.add(drawn.tobytes())
    assert len(seen) > 5
    opacity(wide, "1")
    photo, veiled = wide.locator(".ck-photo > img").bounding_box(), overlay.locator("canvas").bounding_box()
    assert veiled == pytest.approx(photo, abs=1.5)  # this model sees the whole photo
    wide.mouse.move(5, 5)
    opacity(wide, "0")
    assert line.inner_text() == hint


def veiled_pixels(page: Any) -> np.ndarray:
    """What the first veil is drawn with, 0 to 255: [rows, columns, 4], red, green, blue and alpha."""
    height, width, data = page.evaluate(
        """() => {
            const canvas = document.querySelector(".ck-veil canvas");
            const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return [canvas.height, canvas.width, [...image.data]];
        }"""
    )
    return np.array(data, float).reshape(height, width, 4)


def answered(page: Any, *words: dict[str, Any], region: tuple[float, ...] = (0, 0, 1, 1), **more: Any) -> None:
    """Let the service answer the next photo with one caption of these words, whose confidence is 0.9."""
    text = " ".join(word["text"] for word in words)
    caption = {"text": text, "log_prob": -1, "confidence": 0.9, "words": [{"confidence": 0.9} | word for word in words]}
    result = {"path": "", "captions": [caption], "region": region, "ms": {"open": 1, "encode": 2, "decode": 3}} | more
    page.route("**/v1/captions?*", lambda route: route.fulfill(json={"model": "m", "results": [result]}), times=1)


@pytest.mark.parametrize(
    ("shape", "cell", "place"),
    [
        ((7, 7), (0, 0), "at the top left"),
        ((7, 7), (3, 3), "at the middle"),
        ((7, 7), (6, 3), "at the bottom"),
        ((4, 9), (2, 8), "at the right"),
        ((7, 7), None, "all over the photo"),
    ],
)
def test_a_screen_reader_hears_where_the_model_looked(
    wide: Any, shape: tuple[int, int], cell: tuple[int, int] | None, place: str
) -> None:
    grid = np.full(shape, 0.01)
    if cell:
        grid[cell] = 0.5
    answered(wide, {"text": "a", "attention": grid.tolist()}, {"text": "blind"}, region=(0.25, 0, 0.75, 1))
    give(wide, EXAMPLES / "cat.jpg")
    word, other = wide.locator(".ck-word").all()
    word.hover()
    assert wide.locator(".ck-looked").inner_text() == f"a: 90% sure, looked {place}"
    photo, veiled = (wide.locator(part).bounding_box() for part in (".ck-photo", ".ck-veil canvas"))
    assert veiled["width"] == pytest.approx(photo["width"] / 2, abs=1)
    assert veiled["x"] - photo["x"] == pytest.approx(photo["width"] / 4, abs=1)
    other.hover()  # of a model without attention maps
    assert wide.locator(".ck-looked").inner_text() == "blind: 90% sure"
    opacity(wide, "0")


def test_text_that_looks_like_html_stays_text(wide: Any) -> None:
    answered(wide, {"text": "<img src=x onerror=alert(1)>"}, {"text": '"&'}, note="<i>odd</i>")
    give(wide, EXAMPLES / "cat.jpg")
    assert wide.locator(".ck-word").all_inner_texts() == ["<img src=x onerror=alert(1)>", '"&']
    assert "<i>odd</i>" in wide.locator(".ck-text").inner_text()
    wide.get_by_role("button", name="as an alt attribute").click()
    until(wide, "() => document.querySelector('.ck-copy:last-child').innerText === 'Copied'")
    copied = wide.evaluate("navigator.clipboard.readText()")
    assert copied == 'alt="&lt;img src=x onerror=alert(1)&gt; &quot;&amp;"'


def test_it_waits_while_the_service_is_busy_and_says_what_it_answers(wide: Any) -> None:
    error = {"error": {"message": "9 images wait already; try again in 1 s", "type": "rate_limit_error", "status": 429}}
    busy = {"status": 429, "json": error, "headers": {"Retry-After": "1"}}
    wide.route("**/v1/captions?*", lambda route: route.fulfill(**busy), times=2)
    give(wide, EXAMPLES / "cat.jpg")
    assert wide.locator(".ck-error").count() == 0
    for fault, told in (
        ({"status": 502, "body": "<h1>Bad Gateway</h1>", "content_type": "text/html"}, "the server answered 502"),
        (None, "the service does not answer; is it still running?"),
    ):
        wide.route("**/v1/captions?*", failing(fault), times=1)
        give(wide, EXAMPLES / "cat.jpg", done="0 of 1 photo captioned")
        assert wide.locator(".ck-error").inner_text().partition("\n")[2].strip().startswith(f"cat.jpg: {told}")


def failing(fault: dict[str, Any] | None) -> Callable[[Any], None]:
    """What answers a request with a fault, or not at all."""
    return lambda route: route.fulfill(**fault) if fault else route.abort()


def test_new_photos_take_the_place_of_those_under_way(wide: Any) -> None:
    held: list[Any] = []
    wide.route("**/v1/captions?*", lambda route: held.append(route), times=1)
    wide.set_input_files(".ck-drop input[type=file]", [str(EXAMPLES / "camera.jpg")])
    until(wide, "() => document.querySelector('#ck-status').innerText === 'Captioning 1 photo …'")
    give(wide, EXAMPLES / "cat.jpg")
    assert wide.locator(".ck-name").all_inner_texts() == ["cat.jpg"]


def test_too_many_too_large_and_empty_files(wide: Any, browser: Any, server: Server, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    give(wide, empty, done="0 of 1 photo captioned")
    assert "empty.jpg: is empty" in wide.locator(".ck-error").inner_text()
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(2**25 + 1)
    give(wide, large, done="0 of 1 photo captioned")
    assert "large.jpg: has more than the 32 MB that are taken" in wide.locator(".ck-error").inner_text()
    give(wide, *[empty] * 33, done="0 of 32 photos captioned. 1 more left out: 32 are captioned at a time")


def test_a_photo_that_the_browser_cannot_open_is_shown_all_the_same(wide: Any, tmp_path: Path) -> None:
    Image.open(EXAMPLES / "cat.jpg").resize((90, 60)).save(tmp_path / "cat.tiff")
    give(wide, tmp_path / "cat.tiff")
    until(wide, "() => document.querySelector('.ck-photo > img').naturalWidth === 90")


def test_alt_text(wide: Any, model: captionkit.Captioner) -> None:
    wide.get_by_text("How captions are made").click()
    wide.get_by_label("Alt text").check()
    give(wide, EXAMPLES / "cat.jpg")
    said = model.caption(EXAMPLES / "cat.jpg", num_captions=3)
    alt = alt_text([said.text, *(other.text for other in said.alternatives)])
    assert wide.locator(".ck-best .ck-alt").inner_text() == alt
    assert wide.locator(".ck-best .ck-word").count() == len(said.words)
    wide.locator(".ck-best .ck-copy").last.click()
    until(wide, "() => document.querySelector('.ck-copy:last-child').innerText === 'Copied'")
    assert wide.evaluate("navigator.clipboard.readText()") == f'alt="{alt}"'
    wide.get_by_label("Captions", exact=True).check()
    wide.get_by_text("How captions are made").click()


def test_a_file_that_is_no_picture_is_named_and_the_others_go_on(wide: Any, tmp_path: Path) -> None:
    bad = tmp_path / "<b>notes & more.jpg"
    bad.write_text("not an image")
    give(wide, EXAMPLES / "astronaut.jpg", bad, EXAMPLES / "cat.jpg", done="2 of 3 photos captioned")
    cards = wide.locator(".ck-card")
    assert cards.count() == 3
    assert re.fullmatch(r"No caption\n+<b>notes & more\.jpg: not an image of a kind .*", cards.nth(1).inner_text())
    assert "bytes" not in cards.nth(1).inner_text()
    assert cards.nth(2).locator(".ck-name").inner_text() == "cat.jpg"


def test_by_keyboard_each_caption_is_one_stop_and_arrows_go_from_word_to_word(wide: Any) -> None:
    give(wide, EXAMPLES / "camera.jpg")
    wide.locator(".ck-download").focus()
    focused = "[document.activeElement.className.trim(), document.activeElement.innerText]"
    words = wide.locator(".ck-best .ck-word").all_inner_texts()
    wide.keyboard.press("Tab")
    assert wide.evaluate(focused)[1] == words[0]
    for press, expected in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", -1), ("Home", 0)):
        wide.keyboard.press(press)
        assert wide.evaluate(focused)[1] == words[expected]
        assert wide.locator(".ck-looked").inner_text().startswith(f"{words[expected]}:")
    wide.keyboard.press("Tab")
    assert wide.evaluate(focused)[0] == "ck-copy"
    wide.keyboard.press("Shift+Tab")
    wide.keyboard.press("Enter")
    assert wide.locator(".ck-word[aria-pressed=true]").inner_text() == words[0]
    wide.keyboard.press("Escape")
    assert wide.locator(".ck-word[aria-pressed=true]").count() == 0


def test_copy_and_download(wide: Any, model: captionkit.Captioner) -> None:
    give(wide, EXAMPLES / "camera.jpg", EXAMPLES / "cat.jpg")
    wide.locator(".ck-best .ck-copy").first.click()
    until(wide, "() => document.querySelector('.ck-copy').innerText === 'Copied'")
    said = model.caption(EXAMPLES / "camera.jpg")
    assert wide.evaluate("navigator.clipboard.readText()") == said.text
    with wide.expect_download() as download:
        wide.get_by_role("button", name="Download JSON").click()
    records = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [record["path"] for record in records] == ["camera.jpg", "cat.jpg"]
    word, first = said.words[1], records[0]["captions"][0]["words"][1]
    assert first["text"] == word.text
    assert np.asarray(first["attention"]) == pytest.approx(word.attention, abs=1e-3)


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_photos_are_dropped_and_pasted_anywhere(wide: Any, event: str) -> None:
    data = base64.b64encode((EXAMPLES / "cat.jpg").read_bytes()).decode()
    wide.evaluate(
        """async ([data, event]) => {
            const photo = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([photo], event + ".jpg", {type: "image/jpeg"}));
            document.body.dispatchEvent(event === "drop"
                ? new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true})
                : new ClipboardEvent("paste", {clipboardData: files, bubbles: true, cancelable: true}));
        }""",
        [data, event],
    )
    settled(wide, f"{event}.jpg")


def test_the_camera_and_the_examples(wide: Any) -> None:
    wide.get_by_role("button", name="Use the camera").click()
    until(wide, "() => document.querySelector('.ck-dialog video').videoWidth > 0")
    wide.get_by_role("button", name="Take the photo").click()
    settled(wide, "camera.jpg")
    assert wide.evaluate("document.querySelector('.ck-dialog video').srcObject") is None
    wide.get_by_role("button", name="Caption an astronaut").click()
    settled(wide, "astronaut.jpg")


def test_settings_are_those_of_the_search(wide: Any, model: captionkit.Captioner) -> None:
    give(wide, EXAMPLES / "cat.jpg")
    assert not wide.get_by_label("Beam").is_visible()
    wide.get_by_text("How captions are made").click()
    assert wide.get_by_label("Beam").is_visible()
    wide.get_by_label("Captions drawn at random").check()
    wide.get_by_label("Seed").fill("7")
    wide.get_by_role("button", name="Caption again").click()
    drawn = model.caption(EXAMPLES / "cat.jpg", num_captions=3, temperature=0.8, top_p=0.9, seed=7)
    expected = [drawn.text, *(other.text for other in drawn.alternatives)]
    assert not wide.get_by_label("Beam").is_visible()
    until(
        wide,
        "wanted => JSON.stringify([...document.querySelectorAll('.ck-words')].map(it => it.ariaLabel)) === wanted",
        json.dumps(expected, separators=(",", ":")),
    )
    wide.get_by_label("The most likely captions").check()


def test_it_has_names_for_all_that_can_be_used_and_tells_what_happens(wide: Any) -> None:
    give(wide, EXAMPLES / "camera.jpg")
    assert wide.evaluate("document.documentElement.lang") == "en"
    assert wide.evaluate("document.querySelector('#ck-status[role=status]') !== null")
    unnamed = wide.evaluate(
        """[...document.querySelectorAll(".ck-drop, .ck-card, .ck-results, #ck-header")].flatMap(part =>
            [...part.querySelectorAll("button, a, input, img, video, dialog")]).filter(it =>
            !(it.ariaLabel || it.innerText?.trim() || it.alt || it.labels?.length || it.hidden
              || (it.alt === "" && it.closest("[aria-hidden], [aria-label], h1")))).map(it => it.outerHTML)"""
    )
    assert unnamed == []
    wide.get_by_role("link", name="model card").click()
    wide.get_by_text("How it was made").wait_for()


def test_a_phone(browser: Any, server: Server) -> None:
    page = opened(browser, server, has_touch=True, is_mobile=True)
    page.set_viewport_size({"width": 390, "height": 844})
    give(page, EXAMPLES / "camera.jpg", EXAMPLES / "astronaut.jpg")
    word = page.locator(".ck-best .ck-word").nth(1)
    assert word.bounding_box()["height"] >= 44
    word.tap()
    opacity(page, "1")
    assert word.get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    word.tap()
    opacity(page, "0")
    assert page.strays == []
    page.context.close()


def test_below_a_path_of_a_proxy_and_with_a_token(browser: Any, tmp_path: Path) -> None:
    with started(tmp_path / "desk", "--root-path", "/my/captions", CAPTIONKIT_TOKEN="secret") as server:
        context = browser.new_context(http_credentials={"username": "anyone", "password": "secret"})
        page = context.new_page()
        page.goto(f"{server.url}/my/captions")
        give(page, EXAMPLES / "cat.jpg")
        assert page.locator(".ck-example img").first.evaluate("image => image.naturalWidth") > 0
        assert page.locator(".ck-address").first.text_content() == f"{server.url}/my/captions/"
        context.close()
