"""What every caption metric is: captions in, batch by batch; scores of each image and of the corpus out.

Sizes: N images, M numbers that a metric gives (BLEU gives four), S statistics that it adds up over images.
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
class Result:
    """Scores of N images, in the order of the updates, and how the corpus score follows from them.

    names: what the M numbers are called, as in scores.json.
    per_image: [N,M].
    statistics: [N,S]; what must be added up over images to score a corpus of them.
    corpus: sums [...,S] -> scores [...,M]. That the corpus score is a function of sums alone is what makes
        resampling (confidence intervals, paired comparison) one matrix product.
    less_is_better: of rates of what is wrong.
    remarks: what there is to say of each image besides numbers: N texts, by what they are called.
    """

    names: tuple[str, ...]
    per_image: Floats
    statistics: Floats
    corpus: Callable[[Floats], Floats]
    less_is_better: bool = False
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """The corpus scores by name."""
        return dict(zip(self.names, map(float, self.corpus(self.statistics.sum(0))), strict=True))


class Metric(Protocol):
    """A metric of tokenised captions. `update` may be called any number of times before `compute`."""

    names: tuple[str, ...]

    def update(self, candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
        """Take a batch: one candidate an image, and the references of each."""

    def compute(self) -> Result:
        """Score all images so far. The metric may be updated further."""

    def reset(self) -> None:
        """Forget all images."""


class Collected:
    """Keeps what `update` is given until `compute` looks at all of it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.candidates: list[Tokens] = []
        self.references: list[Sequence[Tokens]] = []

    def update(self, candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
        """Take a batch: one candidate an image, and the references of each, of which there must be one.

        ValueError for anything but sequences of tokens, or where the two do not fit.
        """
        said, written = checked_batch(candidates, references)
        self.candidates.extend(said)
        self.references.extend(written)


class CollectedWords(Collected):
    """Collects what n-grams are counted of.

    A few PTB tokens hold a no-break space ("1\u00a01/2"). There coco-caption splits for n-grams, and not for ROUGE-L.
    """

    def update(self, candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
        """As `Collected.update`; tokens of text are split at white space, token ids are left alone."""
        said, written = checked_batch(candidates, references)
        self.candidates.extend(map(words_of, said))
        self.references.extend([words_of(reference) for reference in some] for some in written)


def checked_batch(candidates: Iterable[Tokens], references: Iterable[Iterable[Tokens]]) -> tuple[list, list]:
    """A copy of a batch, as lists of tokens. ValueError where it is none; see `Collected.update`."""
    said, written = [tokens_of(c) for c in candidates], [[tokens_of(r) for r in some] for some in references]
    if len(said) != len(written):
        raise ValueError(f"{len(said)} candidates, but references of {len(written)} images")
    if not all(written):
        raise ValueError("an image has no reference; leave it out")
    return said, written


def words_of(tokens: Sequence[Any]) -> Sequence[Any]:
    """Tokens of text split at the white space in them; token ids as they are."""
    return " ".join(tokens).split() if tokens and isinstance(tokens[0], str) else tokens


def tokens_of(caption: object) -> list[Any]:
    """A copy of a caption's tokens; arrays and tensors become plain numbers, which are equal where their values are."""
    if isinstance(caption, (str, bytes)):
        raise ValueError(f"{caption!r} is text; metrics take tokens, as captionkit.metrics.tokenize makes them")
    values: Any = caption
    tokens = list(values) if isinstance(values, list) or not hasattr(values, "tolist") else values.tolist()
    return [token.item() for token in tokens] if tokens and hasattr(tokens[0], "item") else tokens


def mean_result(names: tuple[str, ...], per_image: Floats) -> Result:
    """The result of a metric whose corpus scores are the means of its image scores [N,M]."""
    counted = np.concatenate([per_image, np.ones((len(per_image), 1))], axis=1)  # [N,M] -> [N,M+1]
    return Result(names, per_image, counted, _mean)


def _mean(sums: Floats) -> Floats:
    return sums[..., :-1] / np.maximum(sums[..., -1:], 1)
