"""The web page in a real browser: what people see, hear and can do, wide, narrow and by keyboard."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captionkit
from extras import require
from serving import Server, started

require("gradio", "the extra `page` is not installed")
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
    with started(tmp_path_factory.mktemp("page") / "desk", "--timeout", 120, page=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def model() -> captionkit.Captioner:
    return captionkit.load(threads=1)


def opened(browser: Any, server: Server, **options: Any) -> Any:
    """The page in a window of its own, in which every error and every request to elsewhere is a failure."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.strays = []
    page.on("request", lambda request: None if _is_ours(request.url, server) else page.strays.append(request.url))
    page.on("pageerror", lambda error: page.strays.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector(".ck-drop")
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
    page.evaluate("document.querySelectorAll('.ck-card').forEach(card => card.remove())")
    page.set_input_files(".ck-drop input[type=file]", [str(photo) for photo in photos])
    settled(page, photos[0].name, done)


def settled(page: Any, name: str, done: str = "captioned") -> None:
    """Wait until the first card is that of `name`, the status says that all is done, and nothing is drawn anew."""
    page.wait_for_function(
        """([name, done]) => {
            const card = document.querySelector(".ck-card");
            const said = document.querySelector("#ck-status").innerText;
            if (card !== window.lastCard) [window.lastCard, window.since] = [card, performance.now()];
            return card?.innerText.includes(name) && said.includes(done) && performance.now() - window.since > 300;
        }""",
        arg=[name, done],
    )


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
    assert f"page 'camera.jpg': {said.text}" in server.log


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
        shown = overlay.locator("img").get_attribute("src")
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))))
        rows, columns = word.attention.shape
        light = 255 - image[..., 1].reshape(rows, -1, columns, image.shape[1] // columns).mean((1, 3)) / 1.0
        assert np.corrcoef(light.ravel(), word.attention.ravel())[0, 1] > 0.95
        seen.add(shown)
    assert len(seen) > 5
    wide.wait_for_function("getComputedStyle(document.querySelector('.ck-veil')).opacity === '1'")
    photo, veiled = wide.locator(".ck-photo > img").bounding_box(), overlay.locator("img").bounding_box()
    assert veiled == pytest.approx(photo, abs=1.5)  # this model sees the whole photo
    wide.mouse.move(5, 5)
    wide.wait_for_function("getComputedStyle(document.querySelector('.ck-veil')).opacity === '0'")
    assert line.inner_text() == hint


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
    wide.wait_for_function("document.querySelector('.ck-copy').innerText === 'Copied'")
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
            const photo = await (await fetch("data:image/jpeg;base64," + data)).blob();
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
    wide.wait_for_function("document.querySelector('.ck-dialog video').videoWidth > 0")
    wide.get_by_role("button", name="Take the photo").click()
    settled(wide, "camera.jpg")
    assert wide.evaluate("document.querySelector('.ck-dialog video').srcObject") is None
    wide.get_by_role("button", name="Caption an astronaut").click()
    settled(wide, "astronaut.jpg")


def test_settings_are_those_of_the_search(wide: Any, model: captionkit.Captioner) -> None:
    give(wide, EXAMPLES / "cat.jpg")
    fold = wide.get_by_role("button", name="How captions are made")
    assert fold.get_attribute("aria-expanded") == "false"
    fold.click()
    wide.wait_for_function("document.querySelector('.label-wrap').getAttribute('aria-expanded') === 'true'")
    assert wide.get_by_label("Beam").first.is_visible()
    wide.get_by_label("Captions drawn at random").check()
    wide.get_by_label("Seed").fill("7")
    wide.get_by_role("button", name="Caption again").click()
    drawn = model.caption(EXAMPLES / "cat.jpg", num_captions=3, temperature=0.8, top_p=0.9, seed=7)
    expected = [drawn.text, *(other.text for other in drawn.alternatives)]
    wide.wait_for_function(
        "wanted => JSON.stringify([...document.querySelectorAll('.ck-words')].map(it => it.ariaLabel)) === wanted",
        arg=json.dumps(expected, separators=(",", ":")),
    )
    wide.get_by_label("The most likely captions").check()


def test_it_has_names_for_all_that_can_be_used_and_tells_what_happens(wide: Any) -> None:
    give(wide, EXAMPLES / "camera.jpg")
    assert wide.evaluate("document.documentElement.lang") == "en"
    assert wide.evaluate(
        "document.querySelector('#ck-status').closest('[role=status]') !== null"
        " || document.querySelector('#ck-status [role=status]') !== null"
    )
    unnamed = wide.evaluate(
        """[...document.querySelectorAll(".ck-drop, .ck-card, .ck-results, #ck-header")].flatMap(part =>
            [...part.querySelectorAll("button, a, input, img, video, dialog")]).filter(it =>
            !(it.ariaLabel || it.innerText?.trim() || it.alt || it.labels?.length || it.hidden
              || (it.alt === "" && it.closest("[aria-hidden], [aria-label]")))).map(it => it.outerHTML.slice(0, 200))"""
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
    page.wait_for_function("getComputedStyle(document.querySelector('.ck-veil')).opacity === '1'")
    assert word.get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    word.tap()
    page.wait_for_function("getComputedStyle(document.querySelector('.ck-veil')).opacity === '0'")
    assert page.strays == []
    page.context.close()


@pytest.mark.parametrize("way", ["plain", "with meta", "as a stream", "by URL"])
def test_a_client_gets_no_file_but_its_own(server: Server, photos: Path, way: str) -> None:
    """Neither the page's own event nor the endpoint reads a file of the server or a URL that a client names."""
    httpx = pytest.importorskip("httpx")
    secret: dict[str, Any] = {"path": str((photos / "one.jpg").resolve()), "orig_name": "one.jpg"}
    if way != "plain":
        secret["meta"] = {"_type": "gradio.FileData"}
    if way == "as a stream":
        secret["is_stream"] = True
    if way == "by URL":
        secret["path"] = secret["url"] = "http://example.org/one.jpg"
    asked = 0
    for event in httpx.get(f"{server.url}/config").json()["dependencies"]:
        ways = {8: [0.5, 1, "The most likely captions", 1, 1, 1, 0], 7: [1, 1, 0, 1, False, 0]}
        rest = ways.get(len(event["inputs"]))
        if rest is None:
            continue
        session = f"{way[0]}{way[-1]}{event['id']}"
        body = {"data": [[secret], *rest], "fn_index": event["id"], "session_hash": session}
        httpx.post(f"{server.url}/gradio_api/queue/join", json=body)
        with httpx.stream("GET", f"{server.url}/gradio_api/queue/data?session_hash={session}", timeout=60) as told:
            lines = [json.loads(line[5:]) for line in told.iter_lines() if line.startswith("data:")]
        (done,) = [line for line in lines if line["msg"] == "process_completed"]
        assert done["success"] is False, done
        asked += 1
    assert asked == 3  # photos given, "Caption again", and the endpoint
    assert "page 'one.jpg'" not in server.log


def test_pages_of_other_origins_are_not_let_in(server: Server) -> None:
    httpx = pytest.importorskip("httpx")
    foreign = {"Origin": "https://other.example", "Host": "captions.example"}
    for method, path in (("GET", "/config"), ("POST", "/gradio_api/queue/join"), ("OPTIONS", "/gradio_api/queue/join")):
        reply = httpx.request(method, server.url + path, headers=foreign | {"Access-Control-Request-Method": "POST"})
        assert not [name for name in reply.headers if name.startswith("access-control")], (method, path)
    lost = httpx.get(f"{server.url}/gradio_api/nothing")
    assert lost.status_code == 404 and lost.json()["error"]["status"] == 404
