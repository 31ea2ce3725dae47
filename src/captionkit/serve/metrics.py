"""The service's Prometheus metrics."""

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


class Metrics:
    """Metrics of one service, in their own registry. `inside` returns the number of images queued or in progress."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, inside: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        common: dict[str, Any] = {"namespace": "captionkit", "registry": registry}
        timed = {"buckets": _SECONDS, **common}
        self.requests = Counter("requests", "requests served", ["path", "status"], **common)
        self.seconds = Histogram("request_seconds", "from a request's head to its end", ["path"], **timed)
        self.images = Counter("pictures", "images by what became of them", ["outcome"], **common)
        self._stages = Histogram("stage_seconds", "of an image, its share", ["stage"], **timed)
        self._batches = Histogram("batch_pictures", "images that went together", buckets=_SIZES, **common)
        Gauge("queue_pictures", "images that wait or are at work", **common).set_function(inside)
        Gauge("build", "what runs", ["version"], **common).labels(__version__).set(1)
        #: moving average of the model's seconds per image
        self.seconds_per_image = 0.1

    @contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """Time a batch of `images` images in the model."""
        self._batches.observe(images)
        start = time.perf_counter()
        yield
        latest = (time.perf_counter() - start) / images
        self.seconds_per_image += (latest - self.seconds_per_image) / 4

    def captioned(self, outcome: Outcome) -> None:
        """Count an image that was captioned."""
        self.images.labels("captioned").inc()
        for stage, milliseconds in outcome.ms.items():
            self._stages.labels(stage).observe(milliseconds / 1000)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)
