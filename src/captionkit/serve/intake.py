"""From a request's body to the bytes of pictures and the options that came with them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from captionkit.serve.errors import RefusalError
from captionkit.serve.fetching import fetch
from captionkit.serve.settings import Settings

#: pictures of one request
MOST_PICTURES = 32
_FIELDS = 64
_BINARY = "application/octet-stream"


@dataclass
class Intake:
    """What came with a request: pictures as (name, bytes of a file), and options as they were written."""

    pictures: list[tuple[str, bytes]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def content_type(request: Request) -> str:
    """The request's media type, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def take_in(request: Request, settings: Settings) -> Intake:
    """Pictures from a form with files, from JSON, or the one that is the body. RefusalError for all else."""
    kind = content_type(request)
    if kind == "multipart/form-data":
        intake = await _from_form(request)
    elif kind == "application/json":
        intake = await _from_json(request, settings)
    else:
        intake = Intake([("picture", await take_picture(request))])
    if not intake.pictures:
        raise RefusalError(422, "there is no picture in the request; send one or more")
    return intake


async def take_picture(request: Request, *others: str) -> bytes:
    """The picture that is the body. RefusalError, 415, where the content type is no picture's nor one of `others`."""
    kind = content_type(request)
    if not (kind.startswith("image/") or kind in ("", _BINARY, *others)):
        raise RefusalError(
            415, f"pictures do not come as {kind!r}; send image/jpeg, image/png or {_BINARY}, or see /docs"
        )
    body = await request.body()
    if not body:
        raise RefusalError(422, "the request has no body; send a picture")
    return body


async def take_json(request: Request) -> dict[str, Any]:
    """The JSON object that is the body."""
    body = await request.body()
    try:
        found = await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RefusalError(400, f"the body is not JSON ({reason})") from None
    if not isinstance(found, dict):
        raise RefusalError(422, "the body must be a JSON object")
    return found


async def _from_form(request: Request) -> Intake:
    intake = Intake()
    try:
        async with request.form(max_files=MOST_PICTURES, max_fields=_FIELDS, max_part_size=2**16) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    intake.pictures.append((value.filename or name, await value.read()))
                else:
                    intake.options.setdefault(name, []).append(value)
    except HTTPException as error:
        raise RefusalError(400, f"the form cannot be read ({error.detail})") from None
    for name, values in intake.options.items():
        if len(values) == 1:
            intake.options[name] = values[0]
    return intake


async def _from_json(request: Request, settings: Settings) -> Intake:
    options = await take_json(request)
    images = options.pop("images", None)
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise RefusalError(422, "images: must be a list of pictures in base64")
    names = [f"images[{n}]" for n in range(len(images))]
    return Intake(list(zip(names, await pictures_in(images, request, settings), strict=True)), options)


async def pictures_in(texts: Sequence[str], request: Request, settings: Settings) -> list[bytes]:
    """The pictures that texts stand for: base64, a data URL, or the URL of a picture where these are allowed."""
    if len(texts) > MOST_PICTURES:
        raise RefusalError(413, f"{len(texts)} pictures are more than the {MOST_PICTURES} of a request")
    pictures: list[bytes] = []
    end = time.monotonic() + settings.timeout
    for text in texts:
        if text[:7].lower() == "http://" or text[:8].lower() == "https://":
            if not settings.allow_urls:
                raise RefusalError(422, "this service fetches no URLs; send the picture itself, in base64")
            most = settings.max_bytes - sum(map(len, pictures))
            pictures.append(await fetch(text, most=most, seconds=end - time.monotonic(), hold=request.state.hold))
        else:
            pictures.append(await _decoded(text))
    return pictures


async def _decoded(text: str) -> bytes:
    scheme, colon, _ = text[:8].partition(":")
    if colon and scheme.lower() == "data":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise RefusalError(422, "a data: URL must be in base64: data:image/jpeg;base64,...")
    elif colon:
        raise RefusalError(422, f"URLs that begin with {scheme + colon!r} are not taken; send the picture in base64")
    try:
        return await asyncio.to_thread(_from_base64, text)
    except (binascii.Error, ValueError):
        raise RefusalError(422, "a picture is not in base64; send its bytes in standard base64") from None


def _from_base64(text: str) -> bytes:
    return base64.b64decode("".join(text.split()), validate=True)
