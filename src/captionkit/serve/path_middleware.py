"""Routing of requests: a proxy's path prefix, redundant slashes, and allowed methods."""

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
    """Return the path of a request within the service, after `PathMiddleware` has set its root path."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class Routes:
    """The service's own routes, without those of mounted files."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = [route for route in routes if isinstance(route, Route)]

    def methods(self, path: str) -> list[str]:
        """Return the methods allowed for a path; an empty list if no route matches."""
        found = {method for route in self._routes if route.path_regex.match(path) for method in route.methods or ()}
        if not found:
            return []
        return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set()))

    def tidied(self, path: str) -> str:
        """Return the path without redundant slashes if that matches a route, else unchanged."""
        tidy = "/" + "/".join(filter(None, path.split("/")))
        return tidy if not self.methods(path) and self.methods(tidy) else path


class PathMiddleware:
    """Middleware around all that reads paths: sets path and root path, whether or not the proxy strips its prefix.

    The prefix is the setting's, or else the proxy's X-Forwarded-Prefix. A client that forges this header only changes
    the links in its own response.
    """

    def __init__(self, app: ASGIApp, prefix: str, routes: Routes) -> None:
        self._app, self._prefix, self._routes = app, prefix, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] in ("http", "websocket"):
            scope = {**scope, **self._placed(scope)}
        await self._app(scope, receive, send)

    def _placed(self, scope: Scope) -> dict[str, str]:
        root, path = scope.get("root_path", ""), scope["path"]
        prefix = self._prefix or _forwarded(Headers(scope=scope))
        if prefix and not _below(root, prefix):  # otherwise the server has set it already
            path = path if _below(path, prefix) else prefix + path
            root = prefix + root
        within = path.removeprefix(root)
        if not within and scope.get("method") not in _READING:
            within = "/"  # GET and HEAD are redirected there instead, since the page's links are relative to it
        return {"root_path": root, "path": root + self._routes.tidied(within) if within else root}


def _forwarded(headers: Headers) -> str:
    """Return the prefix in X-Forwarded-Prefix if it is valid, else ""."""
    forwarded = headers.get("x-forwarded-prefix", "").rstrip("/")
    return forwarded if is_prefix(forwarded) else ""


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")


class MethodMiddleware:
    """Middleware that answers HEAD wherever GET is allowed, OPTIONS, and 405 with the allowed methods."""

    def __init__(self, app: ASGIApp, routes: Routes) -> None:
        self._app, self._routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        reply = self._reply(scope) if scope["type"] == "http" else None
        if reply is not None:
            await reply(scope, receive, send)
        elif scope.get("method") == "HEAD":
            inner = {**scope, "method": "GET"}
            try:
                await self._app(inner, receive, _head_of(send))
            finally:
                scope.update(inner, method="HEAD")  # the inner scope holds the route, which metrics need
        else:
            await self._app(scope, receive, send)

    def _reply(self, scope: Scope) -> Response | None:
        """Return the response to a request that needs no endpoint, else None."""
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
        return error_reply(405, f"this path is not for {method}; it is for {', '.join(allowed)}", headers, path=path)


def _head_of(send: Send) -> Send:
    """Wrap `send` to send only the head of a response and its end, so that an endless stream ends too."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body"})

    return sending
