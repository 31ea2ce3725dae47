"""What `captionkit serve` does."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import uvicorn

from captionkit.errors import CaptionkitError
from captionkit.inference.load import load
from captionkit.serve.app import create_app
from captionkit.serve.logs import start_log
from captionkit.serve.settings import Settings
from captionkit.utils.progress import say

TOKEN = "CAPTIONKIT_TOKEN"
_CONNECTIONS = 2048
#: seconds that a connection stays open without a request. Clients let go of theirs after five, often; a server that did
#: so too would close some just as a request comes.
_IDLE = 15


def serve(model: str | None, settings: Settings) -> None:
    """Serve a model until the process is asked to end; what is under way is then finished first."""
    if not settings.token and os.environ.get(TOKEN):
        settings = replace(settings, token=os.environ[TOKEN])
    captioner = load(model, threads=settings.threads or None)
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
    start_log(settings.log_format)  # when nothing can fail any more: a log outlives the failure of a call in a program
    _say_where(listening, settings)
    with listening:
        uvicorn.Server(config).run([listening])


def listen(settings: Settings) -> socket.socket:
    """A socket that listens, so that a port that is taken is known at once."""
    try:
        family, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or error
        raise CaptionkitError(
            f"{settings.host}:{settings.port}: cannot listen there ({reason}); name another --host or --port"
        ) from None
    # Its connections inherit this. asyncio leaves it off on sockets it has not made, and each reply on a connection
    # that was used before would wait 40 ms for the client to acknowledge the reply's head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _say_where(listening: socket.socket, settings: Settings) -> None:
    host, port = listening.getsockname()[:2]
    here = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    say(f"captionkit: serving at {here} (endpoints: {here}/docs, metrics: {here}/metrics); Ctrl-C ends it")
    if host not in ("127.0.0.1", "::1") and not settings.token:
        say(f"captionkit: whoever reaches {host} may use it; ${TOKEN} sets a token that clients must send")
