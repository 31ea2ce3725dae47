"""What the service measures of itself, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from captionkit import __version__
from captionkit.inference.captioner import Outcome

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32)


class Meters:
    """Counters of one service, in a registry of their own. `inside` tells how many images wait or are at work."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, inside: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        told: dict[str, Any] = {"namespace": "captionkit", "registry": registry}
        timed = {"buckets": _SECONDS, **told}
        self.requests = Counter("requests", "requests served", ["path", "status"], **told)
        self.seconds = Histogram("request_seconds", "from a request's head to its end", ["path"], **timed)
        self.pictures = Counter("pictures", "images by what became of them", ["outcome"], **told)
        self._stages = Histogram("stage_seconds", "of an image, its share", ["stage"], **timed)
        self._batches = Histogram("batch_pictures", "images that went together", buckets=_SIZES, **told)
        Gauge("queue_pictures", "images that wait or are at work", **told).set_function(inside)
        Gauge("build", "what runs", ["version"], **told).labels(__version__).set(1)
        #: what the model takes for an image of a batch, lately
        self.seconds_a_picture = 0.1

    @contextmanager
    def batch(self, pictures: int) -> Iterator[None]:
        """Around a batch's way through the model."""
        self._batches.observe(pictures)
        start = time.perf_counter()
        yield
        latest = (time.perf_counter() - start) / pictures
        self.seconds_a_picture += (latest - self.seconds_a_picture) / 4

    def captioned(self, outcome: Outcome) -> None:
        """Count an image that has its captions."""
        self.pictures.labels("captioned").inc()
        for stage, milliseconds in outcome.ms.items():
            self._stages.labels(stage).observe(milliseconds / 1000)

    def exposition(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)
