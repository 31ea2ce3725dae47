"""The implementation of `captionkit serve`."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from captionkit.errors import CaptionkitError
from captionkit.inference.load import Runtime
from captionkit.inference.model_source import open_source
from captionkit.serve.logs import LOG, configure_logging
from captionkit.serve.occupancy import Occupancy
from captionkit.serve.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

TOKEN = "CAPTIONKIT_TOKEN"
_CONNECTIONS = 2048
#: keep-alive timeout in seconds. Clients often close idle connections after five; a server with the same timeout would
#: close some just as a request arrives.
_IDLE = 15


def serve(model: str | None, settings: Settings) -> None:
    """Serve a model until the process gets a signal to stop; requests in progress are then finished first."""
    if not settings.token and os.environ.get(TOKEN):
        settings = replace(settings, token=os.environ[TOKEN])
    if settings.workers > 1:
        _serve_together(model, settings)
        return
    app = application(model, settings)
    listening = listen(settings)
    _log_address(listening, settings)
    configure_logging(settings.log_format)  # last, when nothing can fail any more: handlers would outlive a failed call
    with listening:
        uvicorn.Server(_configured(app, settings)).run([listening])


def _serve_together(model: str | None, settings: Settings) -> None:
    """Serve from several processes; this one has no model, but finds what is wrong with its folder."""
    from captionkit.serve.workers import run_workers

    open_source(model, precision=settings.precision, style=settings.style)
    with listen(settings) as listening:
        configure_logging(settings.log_format)
        run_workers(
            model,
            settings,
            listening,
            partial(_configured, settings=settings),
            lambda: _log_address(listening, settings),
        )


def application(model: str | None, settings: Settings, occupancy: Callable[[], Occupancy] = Occupancy) -> FastAPI:
    """Load a model and return the application that serves it. `occupancy` is asked for once the model is loaded.

    Raises ModelError, and CaptionkitError as captionkit.inference.load.load does.
    """
    from captionkit.serve.app import create_app

    runtime = Runtime(settings.threads or None, settings.device, settings.precision, settings.style)
    return create_app(runtime.load(model), settings, occupancy())


def _configured(app: Any, settings: Settings, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=int(2 * settings.timeout) + 1,
        **more,
    )


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket, so that a port in use is reported at once. Raises CaptionkitError."""
    try:
        family, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or error
        raise CaptionkitError(
            f"{settings.host}:{settings.port}: cannot listen there ({reason}); name another --host or --port"
        ) from None
    # Connections inherit this option. asyncio does not set it on sockets that it has not created, and without it each
    # response on a reused connection would wait 40 ms for the client to acknowledge the response head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _log_address(listening: socket.socket, settings: Settings) -> None:
    host, port = listening.getsockname()[:2]
    here = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    LOG.info("serving at %s (endpoints: %s/docs, metrics: %s/metrics); Ctrl-C ends it", here, here, here)
    if host not in ("127.0.0.1", "::1") and not settings.token:
        LOG.warning("whoever reaches %s may use it; $%s sets a token that clients must send", host, TOKEN)
