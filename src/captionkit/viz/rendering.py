"""Render templates of pages: self-contained, with embedded images, no external resources and no scripts."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from PIL import Image

from captionkit.utils.atomic_write import MARK

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """Return a page of `templates/`. All text is escaped; lone surrogates, of undecodable file names, are replaced."""
    page = _environment().get_template(template).render(mark=MARK, **values)
    return page.encode("utf-8", "replace").decode("utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(str(files(__package__) / "templates"))
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, **options)
    environment.globals |= {"image": _image, "base64": _encoded, "kind_of": lambda block: type(block).__name__}
    return environment


def _image(image: Image.Image, alt: str, longest: int) -> Markup:
    """Return an <img> element with an embedded JPEG, its longer side at most `longest` pixels."""
    from markupsafe import Markup

    jpeg, (width, height) = small_jpeg(image, longest)
    element = Markup('<img src="data:image/jpeg;base64,{}" width="{}" height="{}" alt="{}">')
    return element.format(_encoded(jpeg), width, height, alt)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def small_jpeg(image: Image.Image, longest: int) -> tuple[bytes, tuple[int, int]]:
    """Return an image as a JPEG whose longer side is at most `longest` pixels, and its width and height."""
    small = image.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=85, optimize=True)
    return jpeg.getvalue(), small.size
