"""Middleware in front of all endpoints: authentication, body limits, request log and client disconnects.

A request's body is read completely, within its limits of bytes and time, before any endpoint runs. A slow or broken
upload therefore occupies only its own connection.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from captionkit.serve.errors import BusyError, RefusalError, error_reply, reply_to
from captionkit.serve.logs import LOG, log_request
from captionkit.serve.metrics import Metrics
from captionkit.serve.occupancy import SharedCount
from captionkit.serve.path_middleware import path_of
from captionkit.serve.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

#: paths that need no token: they reveal only whether the service is running
OPEN_PATHS = ("/healthz", "/readyz")
#: limit of the bytes of all bodies in memory, as a multiple of the largest body
_BODIES = 16
#: the status logged for a request whose client disconnected
_GONE = 499


class RequestMiddleware:
    """ASGI middleware that checks the token and the body of each request, and logs it."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics, uploads: SharedCount) -> None:
        self._app, self._settings, self._meters, self._uploads = app, settings, metrics, uploads

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http":
            await _Exchange(scope, send).serve(self._serve, receive, self._meters)
        elif scope["type"] == "lifespan" or self._trusted(Headers(scope=scope)):
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, exchange: _Exchange, receive: Receive) -> None:
        headers = Headers(scope=exchange.scope)

        def reserve(size: int) -> None:
            """Count bytes that this request keeps in memory until it ends. Raises BusyError over the limit."""
            if not self._uploads.add(size, _BODIES * self._settings.max_bytes):
                raise BusyError("too many uploads at a time", 1)
            exchange.held += size

        exchange.scope["state"]["reserve"] = reserve
        try:
            if path_of(exchange.scope) not in OPEN_PATHS and not self._trusted(headers):
                # A line each: of several challenges in one, Chromium understands none, and asks for no password.
                challenge = {"WWW-Authenticate": "Bearer", "www-authenticate": 'Basic realm="captionkit"'}
                raise RefusalError(401, "the token is missing or wrong; send `Authorization: Bearer TOKEN`", challenge)
            body = await self._body(headers, receive, reserve)
            await _until_gone(self._app, exchange, body, receive)
        finally:
            self._uploads.remove(exchange.held)

    def _trusted(self, headers: Headers) -> bool:
        """Return whether the request has the token, as a bearer token or as the password of any user (browsers)."""
        if not self._settings.token:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given).decode("latin-1").partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self._settings.token.encode())

    async def _body(self, headers: Headers, receive: Receive, reserve: Callable[[int], None]) -> bytes:
        """Read the whole body. Raises RefusalError: 408, 413 or 415."""
        most = self._settings.max_bytes
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise RefusalError(413, f"{int(declared):,} bytes are more than the {most:,} that a request may have")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusalError(415, "compressed requests are not taken; send it without Content-Encoding")
        try:
            return await asyncio.wait_for(self._read(receive, reserve), self._settings.timeout)
        except asyncio.TimeoutError:
            reason = f"the upload took more than {self._settings.timeout:g} s; try again, or send a smaller image"
            raise RefusalError(408, reason, {"Connection": "close"}) from None

    async def _read(self, receive: Receive, reserve: Callable[[int], None]) -> bytes:
        body, most, more = bytearray(), self._settings.max_bytes, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            if len(body) + len(chunk) > most:
                raise RefusalError(413, f"more than the {most:,} bytes that a request may have")
            reserve(len(chunk))
            body += chunk
        return bytes(body)


class _Exchange:
    """A request, its response and its log entry."""

    def __init__(self, scope: Message, send: Send) -> None:
        self.scope, self._send = scope, send
        self.status = self.held = 0
        self.log_fields: dict[str, Any] = {}
        scope.setdefault("state", {})["log_fields"] = self.log_fields

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def serve(
        self, serve: Callable[[_Exchange, Receive], Awaitable[None]], receive: Receive, metrics: Metrics
    ) -> None:
        start = time.perf_counter()
        try:
            try:
                await serve(self, receive)
            except RefusalError as error:
                self.log_fields["error"] = str(error)
                await reply_to(error, path_of(self.scope))(self.scope, receive, self.send)
            except ClientDisconnect:
                self.status = _GONE
            except Exception:
                LOG.exception("%s failed", self.scope["path"].encode("unicode_escape").decode())
                if not self.status:
                    failed = error_reply(500, "this failed; the service's log says why", path=path_of(self.scope))
                    await failed(self.scope, receive, self.send)
        finally:
            seconds = time.perf_counter() - start
            path = getattr(self.scope.get("route"), "path", "other")
            metrics.requests.labels(path, self.status or _GONE).inc()
            metrics.seconds.labels(path).observe(seconds)
            if path not in OPEN_PATHS:
                log_request(self._about(seconds))

    def _about(self, seconds: float) -> dict[str, Any]:
        client, path = self.scope.get("client"), self.scope.get("raw_path") or self.scope["path"].encode()
        return {
            "client": client[0] if client else "-",
            "method": self.scope["method"],
            "path": path.decode("latin-1").encode("unicode_escape").decode(),
            "status": self.status or _GONE,
            "ms": round(seconds * 1000, 1),
            **self.log_fields,
        }


async def _until_gone(app: App, exchange: _Exchange, body: bytes, receive: Receive) -> None:
    """Run the application, and cancel it if the client disconnects before the response has started."""
    gone, given = asyncio.Event(), False

    async def replay() -> Message:
        nonlocal given
        if given:
            await gone.wait()
            return {"type": "http.disconnect"}
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    work = asyncio.ensure_future(app(exchange.scope, replay, exchange.send))
    watcher = asyncio.ensure_future(watch())
    try:
        await asyncio.wait({work, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and not exchange.status:
            work.cancel()
            await asyncio.wait({work})
            if work.cancelled():
                raise ClientDisconnect
        await work
    finally:
        for task in (work, watcher):
            task.cancel()
