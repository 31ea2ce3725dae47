"""Metrics in the shape of the modules of Hugging Face's library evaluate, for training loops written for those.

metric = captionkit.metrics.load("cider", "bleu")        # where evaluate.load("...") was
metric.add_batch(predictions=["a dog runs"], references=[["A dog is running.", "The dog runs on grass."]])
metric.compute()                                         # {"CIDEr-D": ..., "BLEU-1": ..., ...}
"""

from __future__ import annotations

from collections.abc import Sequence

from captionkit.errors import CaptionkitError
from captionkit.metrics.document_frequencies import DocumentFrequencies
from captionkit.metrics.evaluation import check_metrics, evaluate
from captionkit.metrics.metric import Metric


class EvaluationModule:
    """Metrics of raw captions that are added one by one, in batches or all at once, and then computed.

    `metrics`, `tokenizer` and `frequencies` are those of `captionkit.evaluate`. Predictions are captions, references a
    caption or several for each. Raises CaptionkitError for a metric that is unknown.
    """

    inputs_description = "predictions: a caption per image. references: a caption, or a list of them, per image."

    def __init__(
        self,
        metrics: Sequence[str | Metric] | None = None,
        *,
        tokenizer: str | None = None,
        frequencies: DocumentFrequencies | None = None,
    ) -> None:
        self._metrics, notes = check_metrics(metrics)
        self._tokenizer, self._frequencies = tokenizer, frequencies
        self.name = ", ".join(name if isinstance(name, str) else "/".join(name.names) for name in self._metrics)
        self.description = "; ".join([f"Scores of captions: {self.name}", *notes])
        self._predictions: list[str] = []
        self._references: list[list[str]] = []

    def __len__(self) -> int:
        """Return the number of captions that were added since the last `compute`."""
        return len(self._predictions)

    def add(self, *, prediction: str, reference: str | Sequence[str]) -> None:
        """Add a caption with its reference or references."""
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> None:
        """Add captions with the reference or references of each. Raises CaptionkitError if their numbers differ."""
        if isinstance(predictions, str) or isinstance(references, str):
            raise CaptionkitError("predictions and references are lists, an entry per image; add() takes one of each")
        if len(predictions) != len(references):
            counts = f"{len(predictions)} predictions and {len(references)} references"
            raise CaptionkitError(f"{counts}; give each prediction its reference, or a list of them")
        self._predictions += predictions
        self._references += [[those] if isinstance(those, str) else list(those) for those in references]

    def compute(
        self,
        *,
        predictions: Sequence[str] | None = None,
        references: Sequence[str | Sequence[str]] | None = None,
    ) -> dict[str, float]:
        """Return the scores of all captions since the last call, those given here among them, by name; and forget them.

        Raises CaptionkitError if there are none, or for what `captionkit.evaluate` refuses.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions or [], references=references or [])
        said: dict[int | str, str] = dict(enumerate(self._predictions))
        written: dict[int | str, Sequence[str]] = dict(enumerate(self._references))
        self._predictions, self._references = [], []
        if not said:
            raise CaptionkitError("no captions to score; add some, or give predictions and references to compute()")
        scores = evaluate(
            said, written, self._metrics, tokenizer=self._tokenizer, frequencies=self._frequencies, resamples=0
        )
        variety = scores.variety.to_dict() if scores.variety else {}
        return {**scores, **{name: value for name, value in variety.items() if not isinstance(value, str)}}


def load(*metrics: str | Metric) -> EvaluationModule:
    """Return the metrics with these names, by default the usual ones, in the shape of a module of evaluate."""
    return EvaluationModule(metrics or None)
