"""The settings of the service; each is a flag on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from captionkit.errors import CaptionkitError
from captionkit.inference.devices import DEVICES, PRECISIONS, STYLES

LOG_FORMATS = ("text", "json")
#: path prefixes that links and pages can contain without escaping
_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")


def is_prefix(path: str) -> bool:
    """Return whether a text is a valid path prefix for the service behind a proxy, such as /captions."""
    return len(path) <= 256 and _PREFIX.fullmatch(path) is not None


def _setting(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class Settings:
    """Address, access control and limits of the service. Raises CaptionkitError for an invalid value."""

    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0: every one of this machine")
    port: int = _setting(1234, "port to listen on; 0: any that is free", 0, 65535)
    token: str = _setting("", "what clients must send as a bearer token; $CAPTIONKIT_TOKEN is not seen by other users")
    root_path: str = _setting("", "path below which a proxy serves it, such as /captions; cut off by the proxy or not")
    cors: tuple[str, ...] = _setting((), "origins whose web pages may use the service, or *")
    allow_urls: bool = _setting(False, "fetch images that requests name by URL, from public addresses only")
    max_batch_size: int = _setting(32, "images that go through the model together, at most", 1, 32)
    max_queue: int = _setting(128, "images that may wait or be at work; more are refused for a while", 1, 100_000)
    timeout: float = _setting(30.0, "seconds for an upload, and again for its captions", 0.01, 3600)
    max_bytes: int = _setting(32 * 2**20, "bytes of a request", 1024, 2**30)
    max_pixels: int = _setting(2**26, "pixels of an image", 1, 2**27)
    workers: int = _setting(1, "processes that share the port, the queue and the processors", 1, 64)
    threads: int = _setting(0, "processors for the model of each worker; 0: all, shared among them", 0, 1024)
    device: str = _setting("cpu", f"that the model runs on: {', '.join(DEVICES)}")
    precision: str = _setting("auto", f"of a model that comes in several: auto, {', '.join(PRECISIONS)}")
    style: str = _setting("", f"of captions, for a model that takes a prompt: {', '.join(STYLES)}")
    log_format: str = _setting("text", f"of the log on standard error: {' or '.join(LOG_FORMATS)}")

    def __post_init__(self) -> None:
        for known in fields(self):
            value, low, high = getattr(self, known.name), known.metadata["low"], known.metadata["high"]
            if high is not None and not low <= value <= high:
                raise CaptionkitError(f"--{known.name.replace('_', '-')} is {value}; use a number from {low} to {high}")
        if self.log_format not in LOG_FORMATS:
            raise CaptionkitError(f"--log-format is {self.log_format!r}; use {' or '.join(LOG_FORMATS)}")
        object.__setattr__(self, "root_path", self.root_path.rstrip("/"))
        if self.root_path and not is_prefix(self.root_path):
            raise CaptionkitError(f"--root-path is {self.root_path!r}; use a path such as /captions")
        if not (self.token.isascii() and self.token.isprintable()) or self.token.strip() != self.token:
            raise CaptionkitError("--token has characters that no HTTP header carries; use letters and digits")
