"""The service's log on standard error, as text or as JSON lines."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from captionkit.errors import CaptionkitError

if TYPE_CHECKING:
    from fastapi import Request

    from captionkit.inference.captioner import Outcome

LOG = logging.getLogger("captionkit.serve")


def log_request(fields: Mapping[str, Any]) -> None:
    """Log a request; `fields` are its client, method, path, status and ms, and captions or error if known."""
    LOG.info(_sentence(fields), extra={"fields": fields})


def _sentence(fields: Mapping[str, Any]) -> str:
    head = f"{fields['client']} {fields['method']} {fields['path']} {fields['status']} {fields['ms']:.0f} ms"
    rest = [fields["error"]] if "error" in fields else fields.get("captions", [])
    return "  ".join([head, *rest]) if len(rest) < 2 else "\n    ".join([head, *rest])


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time_of_day = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = f"{time_of_day} {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower()}
        fields = getattr(record, "fields", None)
        line.update(fields if fields is not None else {"message": record.getMessage()})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(kind: str) -> None:
    """Send the logs of the service and of uvicorn to standard error, as "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if kind == "json" else _Text())
    for name, level in (("captionkit.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def log_captions(request: Request, found: Sequence[Outcome | CaptionkitError]) -> None:
    """Add the captions, or the errors of images without one, to the log entry of a request."""
    request.state.log_fields["captions"] = [
        str(outcome) if isinstance(outcome, CaptionkitError) else str(outcome.caption) for outcome in found
    ]
