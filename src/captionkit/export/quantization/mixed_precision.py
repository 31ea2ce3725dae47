"""Mixed precision: choose the units of a graph that stay in 32 bits to limit the quantization loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

import numpy as np

from captionkit.export.quantization.graph_passes import quicken
from captionkit.export.quantization.kl_divergence import Trace, encode, feature_error, feeds, nats_per_word
from captionkit.export.quantization.quantize import Calibrated, Feed, calibrate, quantised, work_of
from captionkit.export.quantization.report import QuantizedGraph
from captionkit.export.quantization.weight_compression import plain_graph
from captionkit.inference.model_folder import DECODER, ENCODER, ModelFolder
from captionkit.inference.onnx_runtime import IMAGES, OnnxStepper
from captionkit.utils.progress import track

#: number of images on which each unit is quantized alone to measure its sensitivity
_RANKING = 8
#: largest share of a graph's work that may stay in 32 bits
_MOST = 0.5


class Sparing(ABC):
    """Quantizes one of a folder's two graphs, keeping the units with the highest loss per work saved in 32 bits."""

    name: str

    def __init__(self, folder: ModelFolder, graphs: Mapping[str, bytes], walked: Trace, exact: OnnxStepper) -> None:
        self.folder, self.graphs, self.walked, self.exact = folder, graphs, walked, exact
        self.graph = quicken(plain_graph(graphs[self.name]))
        self.work = work_of(self.graph)
        self.units = list(self.work)
        self.tried: dict[int, QuantizedGraph] = {}

    def choose(self, drift: float) -> QuantizedGraph:
        """Return the graph with the fewest float units that loses at most `drift` nats per word, or the closest to it.

        Losses add up, so the loss falls with the number of float units and a binary search finds that number.
        """
        if self._spare(0).nats <= drift:
            return self._spare(0)
        shares = np.cumsum([self.work[unit] for unit in self._order]) / sum(self.work.values())
        too_few, enough = 0, int((shares <= _MOST).sum())
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if self._spare(middle).nats <= drift:
                enough = middle
            else:
                too_few = middle
        return self._spare(enough)

    def _spare(self, many: int) -> QuantizedGraph:
        if many not in self.tried:
            spared = self._order[:many] if many else []
            content = self._quantised(spared)
            nats, error = self.measure(content, self.walked)
            self.tried[many] = QuantizedGraph(
                self.name, len(self.units), tuple(spared), nats, error, len(content), content
            )
        return self.tried[many]

    @cached_property
    def _order(self) -> list[str]:
        """The units, in descending order of loss per work saved."""
        few, costs = self.walked.first(_RANKING), {}
        for unit in track(self.units, len(self.units), f"trying {self.name}"):
            others: Collection[str] = [other for other in self.units if other != unit]
            costs[unit], _ = self.measure(self._quantised(others), few)
        return sorted(self.units, key=lambda unit: costs[unit] / self.work[unit], reverse=True)

    def _quantised(self, spared: Collection[str]) -> bytes:
        return quantised(self.graph, spared, self.calibrated, self.folder.preprocessing)

    @cached_property
    def calibrated(self) -> Calibrated:
        """The calibration of the graph on the images."""
        return calibrate(self.graph, self.feeds())

    @abstractmethod
    def feeds(self) -> Iterable[Feed]:
        """Return the graph's inputs for the calibration images."""

    @abstractmethod
    def measure(self, content: bytes, walked: Trace) -> tuple[float, float]:
        """Return the loss of a quantized graph in nats per word, and the relative error of the decoder's input."""


class EncoderSparing(Sparing):
    """Mixed precision for the encoder's convolutions and matrix products."""

    name = ENCODER

    def feeds(self) -> Iterable[Feed]:
        return ({IMAGES: image[None]} for image in self.walked.images)  # [3,H,W] -> [1,3,H,W]

    def measure(self, content: bytes, walked: Trace) -> tuple[float, float]:
        state = encode(OnnxStepper(self.folder, graphs={**self.graphs, ENCODER: content}), walked.images)
        return nats_per_word(walked, state, self.exact), feature_error(walked, state)


class DecoderSparing(Sparing):
    """Mixed precision for the decoder's matrix products."""

    name = DECODER

    def feeds(self) -> Iterable[Feed]:
        return feeds(self.walked, self.exact)

    def measure(self, content: bytes, walked: Trace) -> tuple[float, float]:
        stepper = OnnxStepper(self.folder, graphs={**self.graphs, DECODER: content})
        return nats_per_word(walked, walked.state, stepper), 0.0
