"""The implementation of `captionkit serve`."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import uvicorn

from captionkit.errors import CaptionkitError
from captionkit.inference.load import Runtime
from captionkit.serve.app import create_app
from captionkit.serve.logs import LOG, configure_logging
from captionkit.serve.settings import Settings

TOKEN = "CAPTIONKIT_TOKEN"
_CONNECTIONS = 2048
#: keep-alive timeout in seconds. Clients often close idle connections after five; a server with the same timeout would
#: close some just as a request arrives.
_IDLE = 15


def serve(model: str | None, settings: Settings) -> None:
    """Serve a model until the process is told to stop; requests in progress are then finished first."""
    if not settings.token and os.environ.get(TOKEN):
        settings = replace(settings, token=os.environ[TOKEN])
    runtime = Runtime(settings.threads or None, settings.device, settings.precision, settings.style)
    captioner = runtime.load(model)
    app = create_app(captioner, settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=int(2 * settings.timeout) + 1,
    )
    listening = listen(settings)
    _log_address(listening, settings)
    configure_logging(settings.log_format)  # last, when nothing can fail any more: handlers would outlive a failed call
    with listening:
        uvicorn.Server(config).run([listening])


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
