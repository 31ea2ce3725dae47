"""Diversity of captions: detects a captioner that has collapsed to a few safe sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from captionkit.metrics.metric import Tokens

#: one caption for more than this share of the images, and at least this many, indicates collapse
_SHARE, _IMAGES = 0.05, 3


@dataclass(frozen=True)
class Variety:
    """The result of `Diversity`. Shares are of the images unless stated otherwise.

    distinct: different captions / captions.
    distinct_1, distinct_2: different words / words, different bigrams / bigrams (Li et al. 2016).
    vocabulary: different words. words, shortest, longest: mean, minimum and maximum number of words of a caption.
    commonest: the most frequent caption, its `commonest_images` and their `commonest_share`.
    novel: captions not in the training set; None if the training captions are not known.
    """

    distinct: float
    distinct_1: float
    distinct_2: float
    vocabulary: int
    words: float
    shortest: int
    longest: int
    commonest: str
    commonest_images: int
    commonest_share: float
    novel: float | None

    def to_dict(self) -> dict[str, float | str]:
        """Return the entries of scores.json."""
        values: dict[str, float | str] = {
            "distinct": self.distinct,
            "distinct-1": self.distinct_1,
            "distinct-2": self.distinct_2,
            "vocabulary": self.vocabulary,
            "words": self.words,
            "shortest": self.shortest,
            "longest": self.longest,
            "commonest": self.commonest,
            "commonest share": self.commonest_share,
        }
        return values if self.novel is None else values | {"novel": self.novel}

    @property
    def warning(self) -> str:
        """Return a warning if one caption is given to many images; else ""."""
        if self.commonest_share <= _SHARE or self.commonest_images < _IMAGES or not self.commonest:
            return ""
        return (
            f"one caption is given to {self.commonest_images} images ({self.commonest_share:.0%}): "
            f"{self.commonest!r}; check that images are preprocessed as in training"
        )


class Diversity:
    """Diversity of tokenised captions; tokenised `training` captions are needed for `novel`."""

    def __init__(self, training: Collection[Tokens] | None = None) -> None:
        self._seen = None if training is None else {tuple(caption) for caption in training}
        self._captions: list[tuple[str, ...]] = []

    def update(self, candidates: Sequence[Tokens], references: object = None) -> None:
        """Add a batch of candidates; references are ignored."""
        self._captions.extend(map(tuple, candidates))

    def compute(self) -> Variety:
        """Return the diversity of all captions so far."""
        captions, counts = self._captions, Counter(self._captions)
        words = Counter(word for caption in captions for word in caption)
        pairs = Counter(pair for caption in captions for pair in pairwise(caption))
        commonest, images = counts.most_common(1)[0] if counts else ((), 0)
        lengths = [len(caption) for caption in captions]
        return Variety(
            distinct=_share(len(counts), len(captions)),
            distinct_1=_share(len(words), words.total()),
            distinct_2=_share(len(pairs), pairs.total()),
            vocabulary=len(words),
            words=_share(sum(lengths), len(lengths)),
            shortest=min(lengths, default=0),
            longest=max(lengths, default=0),
            commonest=" ".join(commonest),
            commonest_images=images,
            commonest_share=_share(images, len(captions)),
            novel=None if self._seen is None else _share(sum(c not in self._seen for c in captions), len(captions)),
        )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
