"""The service as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from captionkit import __version__
from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Captioner
from captionkit.serve.api.captions import captions
from captionkit.serve.api.chat import chat
from captionkit.serve.api.health import health
from captionkit.serve.api.huggingface import huggingface
from captionkit.serve.api.ollama import heartbeat, ollama
from captionkit.serve.api.photoprism import photoprism
from captionkit.serve.api.responses import responses
from captionkit.serve.errors import error_reply, reply_to
from captionkit.serve.middleware import RequestMiddleware
from captionkit.serve.occupancy import Occupancy
from captionkit.serve.options import reason_of
from captionkit.serve.path_middleware import MethodMiddleware, PathMiddleware, Routes, path_of
from captionkit.serve.service import Service
from captionkit.serve.settings import Settings
from captionkit.serve.ui.page import mount_files, page
from captionkit.serve.url_fetch import AT_A_TIME


def create_app(captioner: Captioner, settings: Settings, occupancy: Occupancy | None = None) -> FastAPI:
    """Create the application that serves `captioner`; `app.state.service` is its Service.

    `occupancy` is for one of several processes that serve it together.
    """
    service = Service(captioner, settings, occupancy)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPIOffline(
        title="captionkit",
        version=__version__,
        description='Describes images in words. Errors are `{"error": {"message", "type", "status"}}`.',
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.service, app.state.url_slots = service, asyncio.Semaphore(AT_A_TIME)
    routers = [
        captions(service),
        huggingface(service),
        chat(service),
        responses(service),
        ollama(service),
        photoprism(service),
        health(service),
    ]
    pages = page(service)
    own: list[BaseRoute] = [*app.routes, *(route for router in (*routers, pages) for route in router.routes)]
    routes = Routes(own)
    app.add_middleware(MethodMiddleware, routes=routes)
    app.add_middleware(RequestMiddleware, settings=settings, metrics=service.metrics, uploads=service.occupancy.uploads)
    app.add_middleware(PathMiddleware, prefix=settings.root_path, routes=routes)
    if settings.cors:  # outside the guard, because browsers send preflight requests without the token
        methods = ["GET", "POST"]
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors, allow_methods=methods, allow_headers=["*"])
    _add_errors(app)
    for router in routers:
        app.include_router(router)
    app.router.routes.append(heartbeat())  # before the page, which takes GET / for browsers
    app.include_router(pages)
    mount_files(app)
    return app


def _add_errors(app: FastAPI) -> None:
    """Register exception handlers that give all errors the same JSON form."""

    @app.exception_handler(CaptionkitError)
    async def refused(request: Request, error: CaptionkitError) -> Response:
        request.state.log_fields["error"] = str(error)
        return reply_to(error, path_of(request.scope))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        reason = request.state.log_fields["error"] = reason_of(error.errors())
        return error_reply(422, reason, path=path_of(request.scope))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return error_reply(error.status_code, str(error.detail), error.headers, path=path_of(request.scope))
