"""What a step taught, in sums, so that parts, steps and processes add up exactly."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class StepMetrics:
    """Sums over the words and captions of one step or several.

    nats: cross-entropy of the words taught; of self-critical training, -log p of the words that the model said.
    words: how many. And of self-critical training alone: captions, how many were said; reward, what they were worth;
    distinct, how many different ones of the same image.
    """

    nats: float = 0.0
    words: int = 0
    captions: int = 0
    reward: float = 0.0
    distinct: int = 0

    def __add__(self, other: StepMetrics) -> StepMetrics:
        return StepMetrics(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))

    def row(self) -> dict[str, float]:
        """Means, under the names of metrics.jsonl: the loss, or what self-critical training reports instead."""
        nats = self.nats / max(self.words, 1)
        if not self.captions:
            return {"loss": nats}
        return {
            "reward": self.reward / self.captions,
            "entropy": nats,
            "words": self.words / self.captions,
            "distinct": self.distinct / self.captions,
        }
