"""The service's Prometheus metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from captionkit import __version__
from captionkit.inference.captioner import Outcome
from captionkit.serve.occupancy import Occupancy

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32)


#: of a process's own metrics, those that are not added up over processes
_NOT_SUMMED: Mapping[str, Callable[[Iterable[float]], float]] = {
    "process_start_time_seconds": min,
    "process_max_fds": min,
}


class _Processes(Collector):
    """What all processes of the service use together: memory, processor time, open files."""

    def __init__(self, occupancy: Occupancy) -> None:
        self._occupancy = occupancy

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once."""
        found: dict[str, list[Metric]] = {}
        for process in self._occupancy.processes:
            for metric in ProcessCollector(pid=partial(int, process), registry=None).collect():
                found.setdefault(metric.name, []).append(metric)
        for name, metrics in found.items():
            samples = [metric.samples[0] for metric in metrics]
            together = _NOT_SUMMED.get(name, sum)(sample.value for sample in samples)
            metrics[0].samples[0] = samples[0]._replace(value=together)
            yield metrics[0]


class _Now(Collector):
    """What is true of the service at this moment."""

    def __init__(self, occupancy: Occupancy) -> None:
        self._occupancy = occupancy

    def collect(self) -> Iterator[Metric]:
        """Yield the queue, the workers and the version."""
        inside, workers = self._occupancy.images.total, len(self._occupancy.processes)
        yield GaugeMetricFamily("captionkit_queue_pictures", "images that wait or are at work", inside)
        yield GaugeMetricFamily("captionkit_workers", "processes that serve", workers)
        build = GaugeMetricFamily("captionkit_build", "what runs", labels=["version"])
        build.add_metric([__version__], 1)
        yield build


class Metrics:
    """Metrics of one service, in their own registry; of several processes, those of all of them."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, occupancy: Occupancy) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Processes(occupancy))
        PlatformCollector(registry=registry)
        registry.register(_Now(occupancy))
        shared = occupancy.metrics_folder
        if shared:  # to which prometheus_client writes what is counted below, and adds up what all have written
            MultiProcessCollector(registry, str(shared))
        common: dict[str, Any] = {"namespace": "captionkit", "registry": None if shared else registry}
        timed = {"buckets": _SECONDS, **common}
        self.requests = Counter("requests", "requests served", ["path", "status"], **common)
        self.seconds = Histogram("request_seconds", "from a request's head to its end", ["path"], **timed)
        self.images = Counter("pictures", "images by what became of them", ["outcome"], **common)
        self._stages = Histogram("stage_seconds", "of an image, its share", ["stage"], **timed)
        self._batches = Histogram("batch_pictures", "images that went together", buckets=_SIZES, **common)
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
