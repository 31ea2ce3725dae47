"""The metric interface: captions in, batch by batch; per-image and corpus scores out.

Sizes: N images, M scores of a metric (BLEU has four), S statistics that are summed over images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: a caption as `captionkit.metrics.ptb.tokenize` splits it
Tokens = Sequence[str]


@dataclass(frozen=True, eq=False)
class MetricResult:
    """Scores of N images, in the order of the updates, and how the corpus score follows from them.

    names: names of the M scores, as in scores.json.
    per_image: [N,M].
    statistics: [N,S], the statistics to sum over the images of a corpus.
    corpus: sums [...,S] -> scores [...,M]. Since the corpus score is a function of sums only, resampling (confidence
        intervals, paired comparison) is one matrix product.
    less_is_better: true for error rates.
    remarks: per-image text: N texts by name.
    """

    names: tuple[str, ...]
    per_image: Floats
    statistics: Floats
    corpus: Callable[[Floats], Floats]
    less_is_better: bool = False
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """Return the corpus scores by name."""
        return dict(zip(self.names, map(float, self.corpus(self.statistics.sum(0))), strict=True))


class Metric(Protocol):
    """A metric of tokenised captions. `update` may be called any number of times before `compute`."""

    names: tuple[str, ...]

    def update(self, candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
        """Add a batch: one candidate per image, and the references of each."""

    def compute(self) -> MetricResult:
        """Score all images so far. The metric may be updated further."""

    def reset(self) -> None:
        """Drop all images."""


class CaptionCollector:
    """Collects the batches of `update` for `compute`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Drop all images."""
        self.candidates: list[Tokens] = []
        self.references: list[Sequence[Tokens]] = []

    def update(self, candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
        """Add a batch: one candidate per image, and its references, at least one.

        Raises ValueError for anything but sequences of tokens, or if the numbers of images differ.
        """
        said, written = checked_batch(candidates, references)
        self.candidates.extend(said)
        self.references.extend(written)


class WordCollector(CaptionCollector):
    """Collects captions for counting n-grams.

    A few PTB tokens contain a no-break space ("1\u00a01/2"). coco-caption splits these for n-grams, but not for
    ROUGE-L.
    """

    def update(self, candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
        """Add a batch as `CaptionCollector` does, splitting text tokens at white space; token ids are unchanged."""
        said, written = checked_batch(candidates, references)
        self.candidates.extend(map(words_of, said))
        self.references.extend([words_of(reference) for reference in some] for some in written)


def checked_batch(candidates: Iterable[Tokens], references: Iterable[Iterable[Tokens]]) -> tuple[list, list]:
    """Return a copy of a batch as lists of tokens. Raises ValueError as `CaptionCollector.update` does."""
    said, written = [tokens_of(c) for c in candidates], [[tokens_of(r) for r in some] for some in references]
    if len(said) != len(written):
        raise ValueError(f"{len(said)} candidates, but references of {len(written)} images")
    if not all(written):
        raise ValueError("an image has no reference; leave it out")
    return said, written


def words_of(tokens: Sequence[Any]) -> Sequence[Any]:
    """Split text tokens at white space inside them; return token ids unchanged."""
    return " ".join(tokens).split() if tokens and isinstance(tokens[0], str) else tokens


def tokens_of(caption: object) -> list[Any]:
    """Return a copy of a caption's tokens.

    Arrays and tensors become plain numbers, so that equal values compare equal.
    """
    if isinstance(caption, (str, bytes)):
        raise ValueError(f"{caption!r} is text; metrics take tokens, as captionkit.metrics.tokenize makes them")
    values: Any = caption
    tokens = list(values) if isinstance(values, list) or not hasattr(values, "tolist") else values.tolist()
    return [token.item() for token in tokens] if tokens and hasattr(tokens[0], "item") else tokens


def mean_result(names: tuple[str, ...], per_image: Floats) -> MetricResult:
    """Return the result of a metric whose corpus scores are the means of its image scores [N,M]."""
    counted = np.concatenate([per_image, np.ones((len(per_image), 1))], axis=1)  # [N,M] -> [N,M+1]
    return MetricResult(names, per_image, counted, _mean)


def _mean(sums: Floats) -> Floats:
    return sums[..., :-1] / np.maximum(sums[..., -1:], 1)
