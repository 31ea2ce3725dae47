"""What one sees of a run: a line on the terminal, a log in text or JSON, and numbers for Prometheus."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from captionkit.utils import atomic_write
from captionkit.utils.console import console, handled_by, print_message

if TYPE_CHECKING:
    from rich.status import Status

LOG = logging.getLogger(__name__)

LOG_FORMATS = ("text", "json")
_EVERY = {"text": 30.0, "json": 10.0}  # seconds between lines of a log
_WINDOW = 120.0  # seconds over which the rate is measured


@dataclass
class Tally:
    """Numbers of a run. `before` counts what earlier runs did; `total` is None until the input has been listed."""

    images: int = 0
    failed: int = 0
    parts: int = 0
    before: int = 0
    total: int | None = None
    total_parts: int | None = None
    started: float = field(default_factory=time.monotonic)
    _marks: list[tuple[float, int]] = field(default_factory=list)

    def add(self, images: int, failed: int) -> None:
        """Count a part."""
        self.images += images
        self.failed += failed
        self.parts += 1
        now = time.monotonic()
        self._marks.append((now, self.images - self.before))
        while len(self._marks) > 2 and self._marks[0][0] < now - _WINDOW:
            self._marks.pop(0)

    @property
    def rate(self) -> float:
        """Return the images per second of the last minutes; 0 before the first part."""
        if not self._marks:
            return 0.0
        since, images = self._marks[0] if len(self._marks) > 1 else (self.started, 0)
        now, done = self._marks[-1]
        return (done - images) / max(now - since, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Return how long the rest takes at this rate; None if that is not known."""
        if self.total is None or not self.rate:
            return None
        return max(self.total - self.images, 0) / self.rate

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, as the JSON log has them."""
        left = self.seconds_left
        return {
            "images": self.images,
            "total": self.total,
            "failed": self.failed,
            "parts": self.parts,
            "images_per_second": round(self.rate, 2),
            "seconds_left": None if left is None else round(left),
        }

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total:,}"
        parts = f"{self.parts:,} part{'s' if self.parts != 1 else ''}"
        left = "" if self.seconds_left is None else f", {duration(self.seconds_left)} left"
        return f"{self.images:,}{of} images, {self.rate:.1f} a second, {self.failed:,} failed, {parts}{left}"


def duration(seconds: float) -> str:
    """Return a time as a person says it: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


class _JsonLines(logging.Handler):
    """Prints log messages as JSON lines."""

    def emit(self, record: logging.LogRecord) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        facts = getattr(record, "facts", {"event": "message", "message": record.getMessage()})
        print_message(json.dumps({"time": moment, "level": record.levelname.lower(), **facts}))


class ProgressReport:
    """Tells how a run goes: on a terminal in a line that changes, elsewhere in lines from time to time."""

    def __init__(self, tally: Tally, *, log_format: str = "text", metrics: Path | None = None) -> None:
        self._tally, self._format, self._metrics = tally, log_format, metrics
        self._told = time.monotonic()
        self._status: Status | None = None
        self._as_json = ExitStack()

    def __enter__(self) -> ProgressReport:
        if self._format == "json":
            # instead of what the console makes of it
            self._as_json.enter_context(handled_by(_JsonLines(), "captionkit.bulk", logging.INFO))
        if self._format == "text" and sys.stderr.isatty():
            from rich.status import Status

            self._status = Status("starting", console=console())
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._status:
            self._status.stop()
        self._as_json.close()
        self._write_metrics(running=False)

    def update(self) -> None:
        """Tell the numbers as they are now, if it is time."""
        if self._status:
            self._status.update(str(self._tally))
        elif time.monotonic() - self._told < _EVERY[self._format]:
            return
        else:
            self.event("progress", self._tally.to_dict(), str(self._tally))
        self._told = time.monotonic()
        self._write_metrics(running=True)

    def event(self, name: str, facts: Mapping[str, Any], sentence: str) -> None:
        """Log an event: a sentence, and what the JSON log has of it."""
        LOG.info("%s", sentence, extra={"facts": {"event": name, **facts}})

    def _write_metrics(self, *, running: bool) -> None:
        if self._metrics is not None:
            atomic_write.write_text(self._metrics, prometheus(self._tally, running=running))


def prometheus(tally: Tally, *, running: bool) -> str:
    """Return the numbers in Prometheus' text format, for the textfile collector of node_exporter."""
    left = tally.seconds_left
    numbers: dict[str, tuple[str, str, float | None]] = {
        "images_total": ("counter", "images done, errors included", tally.images),
        "failed_images_total": ("counter", "images without a caption", tally.failed),
        "parts_total": ("counter", "parts written", tally.parts),
        "input_images": ("gauge", "images of the input", tally.total),
        "images_per_second": ("gauge", "images captioned in a second, over the last minutes", tally.rate),
        "seconds_left": ("gauge", "seconds until all is done, at this rate", left),
        "running": ("gauge", "1 while the run goes on", int(running)),
        "last_update_seconds": ("gauge", "time of this report", time.time()),
    }
    lines = []
    for name, (kind, description, value) in numbers.items():
        if value is not None:
            lines += [f"# HELP captionkit_bulk_{name} {description}", f"# TYPE captionkit_bulk_{name} {kind}"]
            lines.append(f"captionkit_bulk_{name} {value}")
    return "\n".join(lines) + "\n"
