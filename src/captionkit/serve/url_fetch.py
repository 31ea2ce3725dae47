"""Fetch images by URL, from public addresses only.

The address is checked at connection time, for the first URL and for every redirect, so the checked address is the one
connected to. Neither a name that resolves to an internal address nor one whose address changes between check and
connection (DNS rebinding) reaches the internal network. Proxies from the environment are not used, because they would
resolve names themselves.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urljoin

import httpcore2

from captionkit import __version__
from captionkit.data.images import MAX_BYTES
from captionkit.errors import ImageError
from captionkit.serve.errors import RefusalError

_REDIRECTS = 3
_SECONDS = 10.0
_REDIRECTIONS = (301, 302, 303, 307, 308)
_HEADERS = {"User-Agent": f"captionkit/{__version__}", "Accept": "image/*"}
_FAILURES = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
    OSError,
    ValueError,
)
#: maximum number of URLs fetched at a time
AT_A_TIME = 8
#: what a connection to an address that does not answer raises
_UNREACHABLE = (httpcore2.ConnectError, httpcore2.ConnectTimeout, OSError)
#: NAT64 prefix: IPv6 addresses that translate to the IPv4 address in their last 32 bits
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether an address is public: not private, loopback, link-local, multicast or reserved."""
    found: Any = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6:
        inner = found.ipv4_mapped or found.sixtofour
        if found.teredo or found in _TRANSLATED or (inner and not is_public(str(inner))):
            return False
        found = found.ipv4_mapped or found
    return found.is_global and not (found.is_multicast or getattr(found, "is_site_local", False))


class _PublicBackend(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses only."""

    def __init__(self) -> None:
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first of a host's addresses that answers, each within its share of the time."""
        addresses = await _public_addresses(host, port)
        share = (timeout or _SECONDS) / len(addresses)
        for address in addresses[:-1]:
            try:
                return await self._backend.connect_tcp(address, port, share, local_address, socket_options)
            except _UNREACHABLE:  # such as an IPv6 address where this machine has no IPv6: the next may answer
                continue
        return await self._backend.connect_tcp(addresses[-1], port, share, local_address, socket_options)


async def _public_addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a host, all of them public. Raises RefusalError if one is not."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RefusalError(422, f"{host!r} is not known; check the URL") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses or not all(map(is_public, addresses)):
        raise RefusalError(422, f"{host!r} is not a public address; send the image itself")
    return addresses


async def fetch(
    url: str, *, most: int, seconds: float, reserve: Callable[[int], None], slots: asyncio.Semaphore
) -> bytes:
    """Fetch the content of a URL, at most `most` bytes; `reserve` is called with the size of each chunk received.

    `slots` bounds how many are fetched at a time. Raises RefusalError if the URL cannot be fetched or is not allowed.
    """
    try:
        return await asyncio.wait_for(_follow(url, most, reserve, slots), min(_SECONDS, seconds))
    except asyncio.TimeoutError:
        raise RefusalError(422, "the URL did not answer in time; send the image itself") from None
    except _FAILURES as error:
        raise RefusalError(422, f"the URL cannot be fetched ({str(error) or type(error).__name__})") from None


def fetch_image(url: str) -> bytes:
    """Fetch an image by its URL, for programs that are no service. Raises ImageError if it cannot be had."""
    try:
        return asyncio.run(_fetch_image(url))
    except RefusalError as refused:
        raise ImageError(f"{url}: {refused}") from None


async def _fetch_image(url: str) -> bytes:
    slots = asyncio.Semaphore(1)  # of this call's event loop
    return await fetch(url, most=MAX_BYTES, seconds=_SECONDS, reserve=lambda _: None, slots=slots)


async def _follow(url: str, most: int, reserve: Callable[[int], None], slots: asyncio.Semaphore) -> bytes:
    connections = httpcore2.AsyncConnectionPool(network_backend=_PublicBackend(), max_keepalive_connections=0)
    async with slots, connections as pool:
        for _ in range(_REDIRECTS + 1):
            async with pool.stream("GET", url, headers=_HEADERS) as response:
                if response.status in _REDIRECTIONS:
                    url = urljoin(url, _header(response.headers, b"location"))
                    continue
                if response.status != 200:
                    raise RefusalError(422, f"the URL answers with status {response.status}")
                return await _read(response, most, reserve)
    raise RefusalError(422, f"the URL redirects more than {_REDIRECTS} times")


async def _read(response: Any, most: int, reserve: Callable[[int], None]) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_stream():
        reserve(len(chunk))
        body += chunk
        if len(body) > most:
            raise RefusalError(413, f"the URL has more than the {most:,} bytes that an image may have")
    return bytes(body)


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), "")
