"""Where a request leads: below a proxy's prefix, with slashes too many, and by which methods."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captionkit.serve.errors import error_reply
from captionkit.serve.settings import is_prefix

_READING = ("GET", "HEAD")


def path_of(scope: MutableMapping[str, Any]) -> str:
    """The path of a request within the service, once `Addresses` has placed it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class Routes:
    """The service's own routes. What is mounted, such as the web page, has routes and methods of its own."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = [route for route in routes if isinstance(route, Route)]

    def methods(self, path: str) -> list[str]:
        """The methods that a path is asked with; none where no route leads there."""
        found = {method for route in self._routes if route.path_regex.match(path) for method in route.methods or ()}
        if not found:
            return []
        if path == "/":
            found.add("GET")  # the page, whichever it is
        return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set()))

    def tidied(self, path: str) -> str:
        """The path without slashes that are too many, where that is one of these routes; else as it is."""
        tidy = "/" + "/".join(filter(None, path.split("/")))
        return tidy if not self.methods(path) and self.methods(tidy) else path


class Addresses:
    """Around everything that looks at paths: it places each request below its prefix, whether a proxy cut that or not.

    The prefix is the setting's, or else what the proxy says in X-Forwarded-Prefix. Whoever sends that is told links
    that begin with it, and nothing else comes of it.
    """

    def __init__(self, app: ASGIApp, prefix: str, routes: Routes) -> None:
        self._app, self._prefix, self._routes = app, prefix, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, request or lifespan, as ASGI has it."""
        if scope["type"] in ("http", "websocket"):
            scope = {**scope, **self._placed(scope)}
        await self._app(scope, receive, send)

    def _placed(self, scope: Scope) -> dict[str, str]:
        root, path = scope.get("root_path", ""), scope["path"]
        prefix = self._prefix or _forwarded(Headers(scope=scope))
        if prefix and not _below(root, prefix):  # else the server has placed it already
            path = path if _below(path, prefix) else prefix + path
            root = prefix + root
        within = path.removeprefix(root)
        if not within and scope.get("method") not in _READING:
            within = "/"  # a reader is sent there instead, as the page's links begin with it
        return {"root_path": root, "path": root + self._routes.tidied(within) if within else root}


def _forwarded(headers: Headers) -> str:
    """The prefix that a proxy names, if that is one."""
    said = headers.get("x-forwarded-prefix", "").rstrip("/")
    return said if is_prefix(said) else ""


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")


class Methods:
    """Around the application: HEAD wherever GET is answered, OPTIONS, and what is allowed where a method is not."""

    def __init__(self, app: ASGIApp, routes: Routes) -> None:
        self._app, self._routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, request or lifespan, as ASGI has it."""
        reply = self._reply(scope) if scope["type"] == "http" else None
        if reply is not None:
            await reply(scope, receive, send)
        elif scope.get("method") == "HEAD":
            inner = {**scope, "method": "GET"}
            try:
                await self._app(inner, receive, _head_of(send))
            finally:
                scope.update(inner, method="HEAD")  # which has the route, for the meters
        else:
            await self._app(scope, receive, send)

    def _reply(self, scope: Scope) -> Response | None:
        """The reply to what no endpoint need see."""
        method, path, root = scope["method"], path_of(scope), scope.get("root_path", "")
        if not path:
            query = scope.get("query_string", b"").decode("latin-1")
            return RedirectResponse(f"{root}/" + (f"?{query}" if query else ""))
        allowed = self._routes.methods(path)
        if not allowed or method in set(allowed) - {"OPTIONS"}:
            return None
        headers = {"Allow": ", ".join(allowed)}
        if method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        return error_reply(405, f"this path is not for {method}; it is for {', '.join(allowed)}", headers)


def _head_of(send: Send) -> Send:
    """Sends the head of a reply and its end, so that a stream without end has one here."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body"})

    return sending
