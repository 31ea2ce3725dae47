"""The web page: upload photos, get captions and the attention map of each word. It loads nothing from the network."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

# Set before gradio is imported, since it reports its import.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI
from gradio.data_classes import ListFiles

from captionkit.errors import CaptionkitError
from captionkit.inference.model_folder import CARD
from captionkit.inference.search import Decoding
from captionkit.serve.service import Service
from captionkit.serve.ui.captions import MOST_PHOTOS, captioned, records_of
from captionkit.serve.ui.cards import results
from captionkit.serve.ui.file_guard import conform, guard_files
from captionkit.utils.paths import EXTRA_SUFFIXES
from captionkit.viz.page import escaped

STATIC = Path(__file__).parent / "static"
EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
#: the example photos, with a description of each
_EXAMPLES = {"camera": "a man behind a camera", "astronaut": "an astronaut and a flag", "cat": "a cat's face"}
#: seconds between checks for old uploads, and the age at which they are deleted
_KEPT = 600, 3600
#: makes screen readers announce changes of the status line
_LIVE = "element.setAttribute('role', 'status')"
#: browsers do not know every camera's files as images
_ACCEPTED = ",".join(("image/*", *EXTRA_SUFFIXES["heif"], *EXTRA_SUFFIXES["raw"]))
_SEARCH, _SAMPLE = "The most likely captions", "Captions drawn at random"


def mount_page(app: FastAPI, service: Service) -> None:
    """Mount the page at `/`, after all routes that `app` already has."""
    gr.mount_gradio_app(
        app,
        build_page(service),
        path="/",
        footer_links=["api"],
        show_error=True,
        max_file_size=service.settings.max_bytes,
        ssr_mode=False,
        pwa=False,
        favicon_path=str(STATIC / "favicon.svg"),
        theme=_theme(),
        css_paths=STATIC / "page.css",
        head='<meta name="description" content="Describes photos in words, and shows where it looked.">',
    )
    conform(app)


def _theme() -> gr.themes.Base:
    """Return the theme: system fonts, and text and slider colours with the contrast of page.css."""
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    soft, soft_dark, accent, accent_dark = "#57606a", "#a6afb9", "#0b6e67", "#5cc8be"
    return theme.set(
        body_text_color_subdued=soft,
        body_text_color_subdued_dark=soft_dark,
        block_info_text_color=soft,
        block_info_text_color_dark=soft_dark,
        slider_color=accent,
        slider_color_dark=accent_dark,
        checkbox_background_color_selected=accent,
        checkbox_border_color_selected=accent,
        input_border_color_focus=accent,
        input_border_color_focus_dark=accent_dark,
    )


def build_page(service: Service) -> gr.Blocks:
    """Build the page as gradio blocks; its API endpoint is `/caption`."""
    usual = service.captioner.decoding
    with gr.Blocks(title="captionkit", analytics_enabled=False, delete_cache=_KEPT) as blocks:
        gr.HTML(_header(service), elem_id="ck-header", apply_default_css=False)
        with gr.Row(elem_id="ck-page"):
            with gr.Column(scale=2, min_width=320, elem_id="ck-side"):
                photos = _photos()
                settings, again = _settings(usual, service.captioner.sure_from)
            with gr.Column(scale=5, min_width=320, elem_id="ck-main"):
                status = gr.HTML("", elem_id="ck-status", js_on_load=_LIVE, apply_default_css=False)
                shown = gr.HTML(_static("empty.html"), js_on_load=_static("results.js"), apply_default_css=False)
        _model_card(service)

        async def respond(files: ListFiles | None, least: float, *chosen: Any) -> AsyncIterator[tuple[str, str]]:
            given = [(file.orig_name or Path(file.path).name, file.path) for file in (files.root if files else [])]
            async for status_line, cards in captioned(service, given, _decoding(*chosen), least or None):
                yield status_line, results(cards)

        listening: dict[str, Any] = {
            "fn": respond,
            "inputs": [photos, *settings],
            "outputs": [status, shown],
            "show_progress": "hidden",
            "api_visibility": "private",
            "concurrency_limit": None,
            "trigger_mode": "always_last",
        }
        photos.given(**listening)
        again.click(**listening)
        _endpoint(service)
    guard_files(blocks)
    return blocks.queue(max_size=service.settings.max_queue)


def _photos() -> gr.HTML:
    """Return the component for dropping, pasting, choosing or taking photos; its value is their files."""
    photos = gr.HTML(
        html_template=_static("photos.html").replace("EXAMPLES", _examples()).replace("ACCEPTED", _ACCEPTED),
        js_on_load=_static("photos.js").replace("MOST_PHOTOS", str(MOST_PHOTOS)),
        apply_default_css=False,
    )
    # A subclass would be clearer, but gradio writes a stub file next to the module of every subclass.
    photos.data_model = ListFiles
    return photos


def _settings(usual: Decoding, sure_from: float | None) -> tuple[list[gr.components.Component], gr.Button]:
    """Return the controls and the button that applies them.

    The controls are the minimum confidence, then those of decoding in the order of `_decoding`'s parameters.
    """
    with gr.Accordion("How captions are made", open=False):
        number = gr.Slider(1, 5, 3, step=1, label="Captions of each photo")
        way = gr.Radio([_SEARCH, _SAMPLE], value=_SEARCH, label="Which captions")
        with gr.Group() as searching:
            beam = gr.Slider(
                1,
                10,
                usual.num_beams,
                step=1,
                label="Beam",
                info="Sentences kept in mind; at least as many as captions.",
            )
        with gr.Group(visible=False) as sampling:
            temperature = gr.Slider(0.1, 2, 0.8, step=0.1, label="Temperature", info="Higher is more adventurous.")
            top_p = gr.Slider(
                0.1, 1, 0.9, step=0.05, label="Top p", info="Only the likeliest words, of this probability together."
            )
            seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="Another seed draws other captions.")
        least = gr.Slider(
            0, 1, sure_from or 0, step=0.05, label="Not sure below", info="Captions of less confidence say “not sure”."
        )
        again = gr.Button("Caption again")
    way.change(
        lambda chosen: (gr.Group(visible=chosen == _SEARCH), gr.Group(visible=chosen == _SAMPLE)),
        way,
        [searching, sampling],
        show_progress="hidden",
        api_visibility="private",
    )
    return [least, number, way, beam, temperature, top_p, seed], again


def _decoding(number: int, way: str, beam: int, temperature: float, top_p: float, seed: int) -> dict[str, Any]:
    if way == _SAMPLE:
        return {"num_captions": number, "temperature": temperature, "top_p": top_p, "seed": int(seed or 0)}
    return {"num_captions": number, "num_beams": max(beam, number)}


def _endpoint(service: Service) -> None:
    """Add the API endpoint `/caption` for gradio_client: photos and settings in, one record per photo out."""
    files = gr.File(file_count="multiple", visible=False, label="photos")
    number = gr.Number(1, precision=0, visible=False, label="num_captions")
    beams = gr.Number(service.captioner.decoding.num_beams, precision=0, visible=False, label="num_beams")
    temperature = gr.Number(0, visible=False, label="temperature")
    top_p = gr.Number(1, visible=False, label="top_p")
    maps = gr.Checkbox(False, visible=False, label="maps")
    least = gr.Number(0, visible=False, label="min_confidence")
    former = gr.Number(0, precision=0, visible=False, label="beam")
    records = gr.JSON(visible=False, label="records")

    async def caption(
        photos: list[str],
        num_captions: int,
        num_beams: int,
        temperature: float,
        top_p: float,
        maps: bool,
        min_confidence: float,
        beam: int,  # what num_beams was called before version 0.2; 0: not given
    ) -> list[dict[str, Any]]:
        given = [(Path(path).name, path) for path in photos or []]
        options = {
            "num_captions": num_captions,
            "num_beams": beam or num_beams,
            "temperature": temperature,
            "top_p": top_p,
        }
        try:
            return await records_of(service, given, options, maps=maps, min_confidence=min_confidence or None)
        except CaptionkitError as error:
            raise gr.Error(str(error)) from None

    gr.Button(visible=False).click(
        caption,
        [files, number, beams, temperature, top_p, maps, least, former],
        records,
        api_name="caption",
        api_description="Caption photos. Each has a record: name, captions (text, log_prob, confidence, words; with "
        "`maps` their attention; with `min_confidence` whether they need a review) and ms, or name and error.",
        concurrency_limit=None,
    )


def _header(service: Service) -> str:
    return (
        f"<h1>{_static('favicon.svg')}captionkit</h1><p>Describes photos, and shows where it looked for each word. "
        f'Model: <b>{escaped(service.model)}</b> (<a href="#ck-model-card">model card</a>). '
        'For programs: <a href="docs">/v1/captions</a>.</p>'
    )


def _model_card(service: Service) -> None:
    """Show the model card without its YAML front matter."""
    path = service.captioner.folder.path / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "This model has no card."
    with gr.Accordion("Model card", open=False, elem_id="ck-model-card"):
        gr.Markdown(re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL), header_links=False)


def _examples() -> str:
    """Return the example photos as buttons; a chosen one is uploaded like any other photo."""
    return "".join(
        f'<li><button type="button" class="ck-example" data-name="{stem}.jpg" aria-label="Caption {what}">'
        f'<img alt="" src="data:image/jpeg;base64,{_encoded(EXAMPLES / f"{stem}.jpg")}"></button></li>'
        for stem, what in _EXAMPLES.items()
    )


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
