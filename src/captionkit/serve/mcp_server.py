"""The implementation of `captionkit mcp`: a server of the Model Context Protocol, on standard input and output.

It offers assistants one tool, caption_image. Images are files of this machine, data: URLs and, if allowed, URLs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types import TextContent, Tool, ToolAnnotations
from pydantic import BaseModel, Field

from captionkit import __version__
from captionkit.data.images import MAX_BYTES
from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Caption, Captioner
from captionkit.serve.base64_images import decode, scheme_of
from captionkit.serve.errors import named
from captionkit.serve.url_fetch import fetch_image

LOG = logging.getLogger(__name__)
_MOST_CAPTIONS = 10
_ABOUT = "Describes images in a sentence each, on this machine. What it says is plain and may be wrong: see confidence."


class ToolRequest(BaseModel):
    """The arguments of caption_image."""

    image: str = Field(description="absolute path of an image file, or its file:, data: or (where allowed) http(s) URL")
    num_captions: int = Field(1, ge=1, le=_MOST_CAPTIONS, description="captions, best first")


class ToolCaption(BaseModel):
    """A caption."""

    text: str
    confidence: float = Field(description="probability that the caption is right, 0 to 1")


class ToolAnswer(BaseModel):
    """The captions of the image, best first."""

    captions: list[ToolCaption]


_TOOL = Tool(
    name="caption_image",
    title="Caption an image",
    description="Describe what an image shows in one sentence, such as alt text needs, with how sure the model is.",
    inputSchema=ToolRequest.model_json_schema(),
    outputSchema=ToolAnswer.model_json_schema(),
    annotations=ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False),
)


def serve_tools(captioner: Captioner, *, allow_urls: bool = False) -> None:
    """Serve the tool until standard input ends. With `allow_urls`, images may be named by public URLs."""
    LOG.info(
        "MCP server with the model %s; a client that has started this speaks to it on standard input and output",
        captioner.folder.name,
    )
    anyio.run(_serve, create_server(captioner, allow_urls=allow_urls))


async def _serve(server: Server[Any, Any]) -> None:
    async with stdio_server() as (receiving, sending):
        await server.run(receiving, sending, server.create_initialization_options())


def create_server(captioner: Captioner, *, allow_urls: bool = False) -> Server[Any, Any]:
    """Return the server that offers the tool."""
    server: Server[Any, Any] = Server("captionkit", version=__version__, instructions=_ABOUT)
    turn = anyio.CapacityLimiter(1)  # the model takes all processors for one image

    @server.list_tools()
    async def tools() -> list[Tool]:
        return [_TOOL]

    @server.call_tool()
    async def call(name: str, arguments: dict[str, Any]) -> tuple[list[TextContent], dict[str, Any]]:
        if name != _TOOL.name:
            raise CaptionkitError(f"there is no tool {name!r}; there is {_TOOL.name}")
        asked = ToolRequest.model_validate(arguments)
        image = await anyio.to_thread.run_sync(_image, asked.image, allow_urls)
        best = await anyio.to_thread.run_sync(_caption, captioner, image, asked.num_captions, limiter=turn)
        found = [ToolCaption(text=one.text, confidence=round(one.confidence, 4)) for one in (best, *best.alternatives)]
        texts = [TextContent(type="text", text=one.text) for one in found]
        return texts, ToolAnswer(captions=found).model_dump()

    return server


def _image(given: str, allow_urls: bool) -> Path | bytes:
    """Return the file that is named, or the bytes of an image. Raises CaptionkitError."""
    scheme = scheme_of(given)
    if scheme == "data":
        return decode(given, MAX_BYTES)
    if scheme in ("http", "https"):
        if not allow_urls:
            raise CaptionkitError("URLs are not fetched; start the server with --allow-urls, or name a file")
        return fetch_image(given.strip())
    if scheme == "file":
        return Path(url2pathname(urlsplit(given).path))
    return Path(given).expanduser()


def _caption(captioner: Captioner, image: Path | bytes, many: int) -> Caption:
    beams = max(many, captioner.decoding.num_beams)
    try:
        return captioner.caption(image, num_captions=many, num_beams=beams)
    except CaptionkitError as error:
        raise CaptionkitError(named(error)) from None
