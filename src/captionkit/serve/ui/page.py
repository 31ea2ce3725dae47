"""The web page at `/`: one HTML file with its style sheet and script, over /v1/captions; all of it comes from here."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from starlette.staticfiles import StaticFiles

from captionkit import __version__
from captionkit.inference.captioner import Captioner
from captionkit.inference.model_folder import CARD
from captionkit.publish.alt_text import MAX_CHARS
from captionkit.serve.errors import RefusalError
from captionkit.serve.request_parsing import MAX_IMAGES
from captionkit.serve.service import Service
from captionkit.utils.paths import EXTRA_SUFFIXES

_HERE = Path(str(files(__package__)))
_EXAMPLES = Path(str(files("captionkit"))) / "assets" / "examples"
#: the example photos, with a description of each
_SHOWN = {"camera.jpg": "a man behind a camera", "astronaut.jpg": "an astronaut and a flag", "cat.jpg": "a cat's face"}
#: browsers do not know every camera's files as images
_ACCEPTED = ",".join(("image/*", *EXTRA_SUFFIXES["heif"], *EXTRA_SUFFIXES["raw"]))
#: what a browser lets the page do: nothing that is not named
_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'self'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
    "Vary": "Accept",
}


def page(service: Service) -> APIRouter:
    """Return the router of the page and of what only the page asks for."""
    router = APIRouter(include_in_schema=False)
    document = _render(service)

    @router.get("/")
    async def home() -> Response:
        return HTMLResponse(document, headers=_HEADERS)

    @router.post("/ui/preview")
    async def preview(request: Request) -> Response:
        """Return a photo as a small JPEG, for a browser that cannot open its kind, such as HEIC or RAW."""
        image = await request.body()
        if not image:
            raise RefusalError(422, "the request has no body; send an image")
        return Response(await service.preview(image), media_type="image/jpeg")

    return router


def mount_files(app: FastAPI) -> None:
    """Mount the page's style sheet, script and example photos; call it after all routes have been added."""
    app.mount("/ui/examples", _Files(directory=_EXAMPLES))
    app.mount("/ui", _Files(directory=_HERE / "static"))


class _Files(StaticFiles):
    """Files that a browser keeps, but asks about each time, so that it never mixes those of two versions."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a file, or 304 if the browser has it."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _render(service: Service) -> str:
    captioner = service.captioner
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((_HERE / "index.html").read_text(encoding="utf-8"))
    return template.render(
        accepted=_ACCEPTED,
        alt_chars=MAX_CHARS,
        attention="attention" in captioner.capabilities,
        beams=min(10, captioner.decoding.num_beams),
        card=_card(captioner),
        examples=_SHOWN,
        max_bytes=service.settings.max_bytes,
        max_photos=MAX_IMAGES,
        model=service.model,
        sure_from=captioner.sure_from or 0,
        version=__version__,
    )


def _card(captioner: Captioner) -> Markup:
    """Return the model card as HTML, without its YAML front matter, images and raw HTML."""
    path = captioner.folder.path / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "This model has no card."
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = markdown.parse(re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL))
    for token in tokens:
        _adapt(token)
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))


def _adapt(token: Token) -> None:
    """Put a card's headings below the page's own, and drop inline styles and links that lead nowhere from here."""
    if token.type in ("heading_open", "heading_close"):
        token.tag = f"h{min(6, int(token.tag[1:]) + 1)}"
    token.attrs.pop("style", None)
    for child in token.children or ():
        if child.type == "link_open" and not str(child.attrs.get("href", "")).startswith(("https://", "http://")):
            child.attrs.pop("href", None)
