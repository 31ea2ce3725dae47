"""Parse a request's body into the bytes of images and the options sent with them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException

from captionkit.serve.base64_images import decode, scheme_of
from captionkit.serve.errors import BusyError, RefusalError
from captionkit.serve.options import SEVERAL
from captionkit.serve.settings import Settings
from captionkit.serve.url_fetch import fetch

#: maximum number of images per request
MAX_IMAGES = 32
_FIELDS = 64
#: content types that do not identify the content
_UNKNOWN_TYPES = ("", "application/octet-stream", "binary/octet-stream")
#: the start of a JSON object, with an optional byte-order mark; a brace alone could start anything
_OBJECT = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*["}]')
#: sent by `curl --data`, as in the examples of several APIs, whatever the data is
CURL_TYPE = "application/x-www-form-urlencoded"
#: field names of images in JSON and forms
_NAMES = ("images", "image", "inputs")


@dataclass
class ParsedRequest:
    """The content of a request: images as (name, file bytes or the error), and options as sent."""

    images: list[tuple[str, bytes | RefusalError]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def _content_type(request: Request) -> str:
    """Return the request's media type, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_json(kind: str) -> bool:
    return kind in ("application/json", "text/json") or (kind.startswith("application/") and kind.endswith("+json"))


async def parse_request(request: Request, settings: Settings, *others: str) -> ParsedRequest:
    """Read images from a form with files, from JSON, or from a body that is an image. Raises RefusalError otherwise.

    If the content type does not identify the content, or is one of `others`, the start of the body decides between JSON
    and an image.
    """
    kind = _content_type(request)
    if kind == "multipart/form-data":
        parsed = await _from_form(request, settings)
    elif _is_json(kind) or (kind in (*_UNKNOWN_TYPES, *others) and await _begins_an_object(request)):
        parsed = await _from_texts(await _object(request), request, settings)
    elif kind.startswith("image/") or kind in (*_UNKNOWN_TYPES, *others):
        parsed = await _from_body(request)
    else:
        raise RefusalError(415, f"images do not come as {kind!r}; send image/jpeg, image/png or JSON, or see /docs")
    if not parsed.images:
        raise RefusalError(422, "there is no image in the request; send one or more")
    return parsed


async def parse_json(request: Request, *others: str) -> dict[str, Any]:
    """Parse the body as a JSON object. Raises RefusalError (415) for content types that are not among `others`."""
    kind = _content_type(request)
    if not (_is_json(kind) or kind in (*_UNKNOWN_TYPES, *others)):
        raise RefusalError(415, f"what is asked for does not come as {kind!r}; send application/json")
    return await _object(request)


async def _begins_an_object(request: Request) -> bool:
    return _OBJECT.match((await request.body())[:1024]) is not None


async def _object(request: Request) -> dict[str, Any]:
    body = await request.body()
    try:
        # not strict: the multi-line output of `base64` is often put between quotes unchanged
        found = await asyncio.to_thread(json.loads, body, strict=False)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RefusalError(400, f"the body is not JSON ({reason})") from None
    if not isinstance(found, dict):
        raise RefusalError(422, "the body must be a JSON object")
    return found


async def _from_body(request: Request) -> ParsedRequest:
    body = await request.body()
    if not body:
        raise RefusalError(422, "the request has no body; send an image")
    return ParsedRequest([("picture", body)])


async def _from_form(request: Request, settings: Settings) -> ParsedRequest:
    files: list[tuple[str, bytes | RefusalError]] = []
    texts: dict[str, Any] = {}
    try:
        async with request.form(max_files=MAX_IMAGES, max_fields=_FIELDS, max_part_size=2**16) as form:
            for name, value in form.multi_items():
                if isinstance(value, str):
                    texts.setdefault(name, []).append(value)
                elif value.filename or value.size:  # otherwise no file was chosen in a browser's form
                    files.append((value.filename or name, await value.read()))
    except (HTTPException, FormParserError) as error:  # not every version of Starlette makes one of the other
        raise RefusalError(400, f"the form cannot be read ({getattr(error, 'detail', error)})") from None
    for name, values in texts.items():
        if len(values) == 1:
            texts[name] = values[0]
        elif name not in (*SEVERAL, *_NAMES):
            raise RefusalError(422, f"{name}: is given {len(values)} times; send it once")
    if files and not any(name in texts for name in _NAMES):
        return ParsedRequest(files, texts)
    parsed = await _from_texts(texts, request, settings)
    return ParsedRequest([*files, *parsed.images], parsed.options)


async def _from_texts(given: dict[str, Any], request: Request, settings: Settings) -> ParsedRequest:
    """Read the images from the one image field, a text or a list of texts; all other fields are options."""
    names = [name for name in _NAMES if given.get(name) is not None]
    if len(names) != 1:
        wanted = " or ".join(names) + ", not both" if names else "images, an image in base64 or a list of several"
        raise RefusalError(422, f"send {wanted}")
    (name,) = names
    images = given[name]
    listed = images if isinstance(images, list) else [images]
    named = [(f"{name}[{n}]" if isinstance(images, list) else name, image) for n, image in enumerate(listed)]
    options = {key: value for key, value in given.items() if key not in _NAMES}
    return ParsedRequest(await decode_images(named, request, settings), options)


async def decode_images(
    texts: Sequence[tuple[str, Any]], request: Request, settings: Settings
) -> list[tuple[str, bytes | RefusalError]]:
    """Decode named texts to images: base64, a data: URL, or the URL of an image if URLs are allowed.

    A text that cannot be decoded is returned as a RefusalError with its name. Raises RefusalError for too many texts,
    and BusyError if the service holds too many bytes already.
    """
    if len(texts) > MAX_IMAGES:
        raise RefusalError(413, f"{len(texts)} images are more than the {MAX_IMAGES} of a request")
    found: list[tuple[str, bytes | RefusalError]] = []
    most, end = settings.max_bytes, time.monotonic() + settings.timeout
    for name, text in texts:
        try:
            image = await _decode_image(text, request, settings, most=most, end=end)
            most -= len(image)
            found.append((name, image))
        except BusyError:
            raise
        except RefusalError as error:
            found.append((name, RefusalError(error.status, f"{name}: {error}", error.headers)))
    return found


async def _decode_image(text: Any, request: Request, settings: Settings, *, most: int, end: float) -> bytes:
    if not isinstance(text, str):
        raise RefusalError(422, "must be a text: the image in base64, or a data: URL")
    scheme = scheme_of(text)
    if scheme in ("http", "https"):
        if not settings.allow_urls:
            raise RefusalError(422, "this service fetches no URLs; send the image itself, in base64")
        slots = request.app.state.url_slots
        left = end - time.monotonic()
        return await fetch(text.strip(), most=most, seconds=left, reserve=request.state.reserve, slots=slots)
    if scheme not in ("", "data"):
        raise RefusalError(422, f"URLs that begin with {scheme + ':'!r} are not taken; send the image in base64")
    return await asyncio.to_thread(decode, text, most)
