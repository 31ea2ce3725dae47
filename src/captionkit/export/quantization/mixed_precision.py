"""Mixed precision: choose the units of a graph that stay in 32 bits to limit the quantization loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

import numpy as np

from captionkit.export.quantization.graph_passes import optimize_graph
from captionkit.export.quantization.kl_divergence import Trace, encode, feature_error, feeds, nats_per_word
from captionkit.export.quantization.quantize import Calibrated, Feed, calibrate, quantize_graph, work_of
from captionkit.export.quantization.report import QuantizedGraph
from captionkit.export.quantization.weight_compression import plain_graph
from captionkit.inference.model_folder import DECODER, ENCODER, ModelFolder
from captionkit.inference.onnx_runtime import IMAGES, OnnxStepper
from captionkit.utils.progress import progress_bar

#: number of images on which each unit is quantized alone to measure its sensitivity
_RANKING = 8
#: largest share of a graph's work that may stay in 32 bits
_MOST = 0.5


class LayerSelector(ABC):
    """Quantizes one of a folder's two graphs, keeping the units with the highest loss per work saved in 32 bits."""

    name: str

    def __init__(self, folder: ModelFolder, graphs: Mapping[str, bytes], traced: Trace, exact: OnnxStepper) -> None:
        self.folder, self.graphs, self.traced, self.exact = folder, graphs, traced, exact
        self.graph = optimize_graph(plain_graph(graphs[self.name]))
        self.work = work_of(self.graph)
        self.units = list(self.work)
        self.tried: dict[int, QuantizedGraph] = {}

    def choose(self, max_nats: float) -> QuantizedGraph:
        """Return the graph with the fewest float units that loses at most `max_nats` per word, or the closest to it.

        Losses add up, so the loss falls with the number of float units and a binary search finds that number.
        """
        if self._with_float_units(0).nats <= max_nats:
            return self._with_float_units(0)
        shares = np.cumsum([self.work[unit] for unit in self._order]) / sum(self.work.values())
        too_few, enough = 0, int((shares <= _MOST).sum())
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if self._with_float_units(middle).nats <= max_nats:
                enough = middle
            else:
                too_few = middle
        return self._with_float_units(enough)

    def _with_float_units(self, many: int) -> QuantizedGraph:
        if many not in self.tried:
            float_units = self._order[:many] if many else []
            content = self._quantize(float_units)
            nats, error = self.measure(content, self.traced)
            self.tried[many] = QuantizedGraph(self.name, len(self.units), tuple(float_units), nats, error, content)
        return self.tried[many]

    @cached_property
    def _order(self) -> list[str]:
        """The units, in descending order of loss per work saved."""
        few, costs = self.traced.first(_RANKING), {}
        for unit in progress_bar(self.units, len(self.units), f"trying {self.name}"):
            others: Collection[str] = [other for other in self.units if other != unit]
            costs[unit], _ = self.measure(self._quantize(others), few)
        return sorted(self.units, key=lambda unit: costs[unit] / self.work[unit], reverse=True)

    def _quantize(self, float_units: Collection[str]) -> bytes:
        return quantize_graph(self.graph, float_units, self.calibrated, self.folder.preprocessing)

    @cached_property
    def calibrated(self) -> Calibrated:
        """The calibration of the graph on the images."""
        return calibrate(self.graph, self.feeds())

    @abstractmethod
    def feeds(self) -> Iterable[Feed]:
        """Return the graph's inputs for the calibration images."""

    @abstractmethod
    def measure(self, content: bytes, traced: Trace) -> tuple[float, float]:
        """Return the loss of a quantized graph in nats per word, and the relative error of the decoder's input."""


class EncoderLayerSelector(LayerSelector):
    """Mixed precision for the encoder's convolutions and matrix products."""

    name = ENCODER

    def feeds(self) -> Iterable[Feed]:
        return ({IMAGES: image[None]} for image in self.traced.images)  # [3,H,W] -> [1,3,H,W]

    def measure(self, content: bytes, traced: Trace) -> tuple[float, float]:
        state = encode(OnnxStepper(self.folder, graphs={**self.graphs, ENCODER: content}), traced.images)
        return nats_per_word(traced, state, self.exact), feature_error(traced, state)


class DecoderLayerSelector(LayerSelector):
    """Mixed precision for the decoder's matrix products."""

    name = DECODER

    def feeds(self) -> Iterable[Feed]:
        return feeds(self.traced, self.exact)

    def measure(self, content: bytes, traced: Trace) -> tuple[float, float]:
        stepper = OnnxStepper(self.folder, graphs={**self.graphs, DECODER: content})
        return nats_per_word(traced, traced.state, stepper), 0.0
