"""Metrics of training steps as sums, so that micro-batches, steps and processes add up exactly."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class StepMetrics:
    """Sums over the words and captions of one or several steps.

    nats: cross-entropy of the target words; in self-critical training, -log p of the sampled words.
    words: number of these words.
    Only in self-critical training: captions, the number of samples; reward, the sum of their rewards; distinct, the
    number of distinct samples per image, summed over images.
    """

    nats: float = 0.0
    words: int = 0
    captions: int = 0
    reward: float = 0.0
    distinct: int = 0

    def __add__(self, other: StepMetrics) -> StepMetrics:
        return StepMetrics(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))

    def row(self) -> dict[str, float]:
        """Return means under the names of metrics.jsonl: the loss, or the metrics of self-critical training."""
        nats = self.nats / max(self.words, 1)
        if not self.captions:
            return {"loss": nats}
        return {
            "reward": self.reward / self.captions,
            "entropy": nats,
            "words": self.words / self.captions,
            "distinct": self.distinct / self.captions,
        }
