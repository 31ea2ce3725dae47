"""Restrict gradio to the service's rules: no access to server files, CORS as configured, uniform errors."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import gradio as gr
from fastapi import FastAPI, Request, Response
from gradio.route_utils import CustomCORSMiddleware
from gradio.utils import get_upload_folder
from starlette.exceptions import HTTPException
from starlette.routing import Mount

from captionkit.serve.errors import error_reply


def guard_files(blocks: gr.Blocks) -> None:
    """Accept no file paths from clients except those of uploaded files.

    Gradio checks file paths only for launched blocks, and mounted blocks never are. Without the check it would copy any
    file of the server, or any URL, to a place from which the page can read it.
    """
    blocks.has_launched = True

    async def uploaded(path: str) -> str:
        if not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise gr.Error("only photos that were uploaded are captioned")
        return path

    for block in blocks.blocks.values():
        block.async_move_resource_to_block_cache = uploaded  # type: ignore[assignment, method-assign]


def conform(app: FastAPI) -> None:
    """Make gradio's mounted application follow the service's CORS settings and error format."""
    mount = next(route for route in app.routes if isinstance(route, Mount) and isinstance(route.app, FastAPI))
    mounted = cast(FastAPI, mount.app)
    # Gradio allows all origins; here only `--cors` decides, in middleware around the whole application.
    mounted.user_middleware = [one for one in mounted.user_middleware if one.cls is not CustomCORSMiddleware]

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_reply(error.status_code, str(error.detail), error.headers)

    for status in (404, 405):
        mounted.add_exception_handler(status, refused)
