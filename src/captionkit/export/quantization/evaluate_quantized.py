"""Evaluate a captioner before and after each quantization step: captions, scores and speed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from captionkit.data.images import Source
from captionkit.data.layouts import CaptionSet
from captionkit.errors import CaptionkitError
from captionkit.export.quantization.report import QuantizationStep
from captionkit.inference.captioner import Captioner
from captionkit.inference.model_folder import DECODER, ENCODER, ModelFolder
from captionkit.inference.onnx_runtime import OnnxStepper
from captionkit.metrics import Scores, evaluate
from captionkit.utils.progress import progress_bar

LOG = logging.getLogger(__name__)

_SCORE = "CIDEr-D"
_RESAMPLES = 1000
#: images on which speed is measured
_TIMED = 12


class QuantizedEvaluator:
    """Compares quantized graphs with their float originals, on the dataset split `references` or else on `images`."""

    def __init__(
        self,
        folder: ModelFolder,
        graphs: Mapping[str, bytes],
        images: Sequence[Source],
        references: CaptionSet | None,
    ) -> None:
        self.folder, self.graphs, self.references = folder, dict(graphs), references
        self.images = images if references is None else [example.image for example in references]
        self.timed = self.images[:_TIMED]
        self._said: dict[bytes, list[str | None]] = {}
        self.described = f"{len(self.images)} images"
        if references is not None:
            self.described += f" of {references.name}, split {references.split}"

    def __call__(self, quantized: Mapping[str, bytes]) -> list[QuantizationStep]:
        """Evaluate float32, then the encoder in 8 bits, then encoder and decoder in 8 bits.

        Raises CaptionkitError if no image of the split could be captioned.
        """
        stages = {
            "float32": self.graphs,
            "encoder in 8 bits": {**self.graphs, ENCODER: quantized[ENCODER]},
            "decoder too": dict(quantized),
        }
        captioners = [Captioner(self.folder, OnnxStepper(self.folder, graphs=graphs)) for graphs in stages.values()]
        said = [
            self._captions(captioner, graphs) for captioner, graphs in zip(captioners, stages.values(), strict=True)
        ]
        scores = [self._score(captions, said) for captions in said]
        speeds = self._speeds(captioners)
        return [
            _step(name, graphs, speed, captions, said[0], score, scores[0])
            for (name, graphs), speed, captions, score in zip(stages.items(), speeds, said, scores, strict=True)
        ]

    def _captions(self, captioner: Captioner, graphs: Mapping[str, bytes]) -> list[str | None]:
        key = graphs[ENCODER] + graphs[DECODER]
        if key not in self._said:
            outcomes = progress_bar(captioner.stream(self.images), len(self.images), "captioning")
            self._said[key] = [outcome.caption.text if outcome.caption else None for outcome in outcomes]
        return self._said[key]

    def _score(self, captions: list[str | None], all_said: list[list[str | None]]) -> Scores | None:
        """Return the scores on the images that every captioner could caption; None without a split to evaluate on."""
        if self.references is None:
            return None
        both = [place for place, texts in enumerate(zip(*all_said, strict=True)) if None not in texts]
        if not both:
            raise CaptionkitError(
                f"{self.references.name}: no image of split {self.references.split!r} could be captioned"
            )
        if len(both) < len(captions):
            LOG.warning("%d images could not be captioned and are left out", len(captions) - len(both))
        caption_set = self.references.subset(both)
        said = {example.id: captions[place] or "" for example, place in zip(caption_set, both, strict=True)}
        return evaluate(said, caption_set, ["cider"], resamples=_RESAMPLES)

    def _speeds(self, captioners: Sequence[Captioner]) -> list[tuple[float, float]]:
        """Return each captioner's median milliseconds to encode and to decode an image, measured in alternation."""
        found: list[list[tuple[float, float]]] = [[] for _ in captioners]
        for number, image in enumerate([self.timed[0], *self.timed]):
            for captioner, times in zip(captioners, found, strict=True):
                outcome = next(captioner.stream([image]))
                if number and outcome.caption:  # skip the first call, which includes the runtime's initialization
                    times.append((outcome.ms["encode"], outcome.ms["decode"]))
        return [tuple(np.median(times, axis=0).tolist()) if times else (0.0, 0.0) for times in found]


def _step(
    name: str,
    graphs: Mapping[str, bytes],
    speed: tuple[float, float],
    captions: list[str | None],
    exact: list[str | None],
    scores: Scores | None,
    first: Scores | None,
) -> QuantizationStep:
    same = float(np.mean([ours == theirs for ours, theirs in zip(captions, exact, strict=True)]))
    step = QuantizationStep(name, sum(map(len, graphs.values())) / 1e6, *speed, same)
    if scores is None or first is None:
        return step
    if scores is first:
        return replace(step, cider=scores[_SCORE])
    found = next(found for found in first.compare(scores).differences if found.name == _SCORE)
    loss, low, high = (value / max(first[_SCORE], 1e-9) for value in (found.difference, found.low, found.high))
    return replace(step, cider=scores[_SCORE], loss=loss, low=low, high=high)
