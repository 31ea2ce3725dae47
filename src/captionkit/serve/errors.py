"""What the service answers where it gives no captions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse

from captionkit.errors import CaptionkitError, ImageTooLargeError


class RefusalError(CaptionkitError):
    """A request that is not served, for a reason that its client can mend. `status` is HTTP's."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, dict(headers or {})


class BusyError(RefusalError):
    """More images wait than may."""

    def __init__(self, reason: str, seconds: int) -> None:
        super().__init__(429, f"{reason}; try again in {seconds} s", {"Retry-After": str(seconds)})


class LateError(RefusalError):
    """There was no caption in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(504, f"no caption within {seconds:g} s; try again later, or ask for less")


#: what the `type` of an error is, by status; those of OpenAI's API where it has one
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


class Reply(JSONResponse):
    """JSON in UTF-8; half a surrogate pair, which has no UTF-8, is escaped."""

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def error_reply(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Reply:
    """The one form of all errors: a reason in one line."""
    reason = " ".join(reason.split())
    error = {"message": reason, "type": TYPES.get(status, "invalid_request_error"), "status": status}
    return Reply({"error": error}, status, headers=dict(headers) if headers else None)


def status_of(error: CaptionkitError) -> int:
    """The HTTP status that tells of an error."""
    if isinstance(error, RefusalError):
        return error.status
    return 413 if isinstance(error, ImageTooLargeError) else 422


def reply_to(error: CaptionkitError) -> Reply:
    """The reply that tells of an error."""
    return error_reply(status_of(error), named(error), getattr(error, "headers", None))


def raise_if_all(found: Sequence[object]) -> None:
    """Raise the first of the errors where nothing else was found."""
    if all(isinstance(outcome, CaptionkitError) for outcome in found):
        raise found[0]  # type: ignore[misc]


def named(error: CaptionkitError, name: str = "") -> str:
    """An error's message under the `name` by which the client knows the image, or none."""
    return re.sub(r"^bytes: ", f"{name}: " if name else "", str(error))
