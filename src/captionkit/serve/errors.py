"""Errors of the service and their HTTP responses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from captionkit.errors import CaptionkitError, ImageTooLargeError
from captionkit.serve.replies import Answer, ErrorAnswer, ErrorDetail, OllamaError, Reply, VisionError


class RefusalError(CaptionkitError):
    """A request that is rejected for a reason that the client can fix. `status` is the HTTP status."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, dict(headers or {})


class BusyError(RefusalError):
    """The queue of images is full (429, with Retry-After)."""

    def __init__(self, reason: str, seconds: int) -> None:
        super().__init__(429, f"{reason}; try again in {seconds} s", {"Retry-After": str(seconds)})


class RequestTimeoutError(RefusalError):
    """Captioning timed out (504)."""

    def __init__(self, seconds: float) -> None:
        super().__init__(504, f"no caption within {seconds:g} s; try again later, or ask for less")


#: the `type` of an error by status, as in OpenAI's API where it defines one
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "too_large_error",
    415: "content_type_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}


def error_reply(status: int, reason: str, headers: Mapping[str, str] | None = None, *, path: str = "") -> Reply:
    """Return the JSON response of an error, with the reason in one line, in the form that clients of `path` read."""
    answer = _answer(path, status, " ".join(reason.split()))
    return Reply(answer, status, headers=dict(headers) if headers else None)


def _answer(path: str, status: int, reason: str) -> Answer:
    if path.startswith("/api/v1/"):
        return VisionError(code=status, error=reason)
    if path.startswith("/api/"):
        return OllamaError(error=reason)
    kind = TYPES.get(status, "invalid_request_error")
    return ErrorAnswer(error=ErrorDetail(message=reason, type=kind, status=status))


def status_of(error: CaptionkitError) -> int:
    """Return the HTTP status for an error."""
    if isinstance(error, RefusalError):
        return error.status
    return 413 if isinstance(error, ImageTooLargeError) else 422


def reply_to(error: CaptionkitError, path: str) -> Reply:
    """Return the response for an error of a request to `path`, within the service."""
    return error_reply(status_of(error), named(error), getattr(error, "headers", None), path=path)


def raise_if_all_failed(found: Sequence[object]) -> None:
    """Raise the first error if all outcomes are errors."""
    if all(isinstance(outcome, CaptionkitError) for outcome in found):
        raise found[0]  # type: ignore[misc]


def named(error: CaptionkitError, name: str = "") -> str:
    """Return an error's message prefixed with `name`, the client's name of the image, if there is one."""
    return re.sub(r"^bytes: ", f"{name}: " if name else "", str(error))
