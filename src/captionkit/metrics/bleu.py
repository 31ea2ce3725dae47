"""BLEU-1 to BLEU-4 (Papineni et al. 2002), as coco-caption computes it.

Clipped n-gram precision over the corpus, geometric mean over n, brevity penalty against the reference closest in length
(the shorter of two equally close ones). coco-caption adds two tiny constants so that a precision of zero is not exactly
zero; they are kept here, so that scores of single sentences agree as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captionkit.metrics.metric import Floats, MetricResult, Tokens, WordCollector
from captionkit.metrics.ngrams import LONGEST, Counts, Ints, count, find, ngrams, number

_TINY, _SMALL = 1e-15, 1e-9


class Bleu(WordCollector):
    """BLEU-1 to BLEU-4 of tokenised captions."""

    names: tuple[str, ...] = tuple(f"BLEU-{n}" for n in range(1, LONGEST + 1))

    def compute(self) -> MetricResult:
        """Return the scores of all images so far."""
        statistics = _statistics(self.candidates, self.references)
        return MetricResult(self.names, _bleu(statistics), statistics, _bleu)


def _statistics(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Floats:
    """Return [N,10]: matches for n = 1 to 4, n-grams for n = 1 to 4, length, closest reference length."""
    images = len(candidates)
    flat = [reference for some in references for reference in some]
    image_index = np.repeat(np.arange(images), [len(some) for some in references])  # [R], of each reference
    sentences = number([*candidates, *flat], {})
    owners = np.concatenate([np.arange(images), image_index])[sentences.owners]  # [P], the image of each token
    said = np.repeat(np.arange(len(sentences.lengths)) < images, sentences.lengths)  # [P], whether it is a candidate's
    matches = [
        _matches(
            count(owners[starts[said[starts]]], grams[said[starts]]),
            count(sentences.owners[starts[~said[starts]]] - images, grams[~said[starts]]),
            image_index,
            images,
        )
        for starts, grams in ngrams(sentences)
    ]
    length, reference_lengths = sentences.lengths[:images], sentences.lengths[images:]
    guesses = [np.maximum(length - n, 0) for n in range(LONGEST)]
    closest = _closest(length, reference_lengths, image_index)
    return np.stack([*matches, *guesses, length, closest], axis=1).astype(np.float64)


def _matches(said: Counts, written: Counts, image_index: Ints, images: int) -> Ints:
    """Return the clipped matches of each image [N]: an n-gram counts at most as often as in any one reference."""
    size = max(said.size, written.size)
    keys = image_index[written.owners] * size + written.grams
    order = np.argsort(keys, kind="stable")
    known, first = np.unique(keys[order], return_index=True)
    most = np.maximum.reduceat(written.counts[order], first) if len(first) else written.counts
    places, there = find(said.owners * size + said.grams, known)
    clipped = np.minimum(said.counts[there], most[places[there]])
    return np.bincount(said.owners[there], clipped, minlength=images)


def _closest(lengths: Ints, reference_lengths: Ints, image_index: Ints) -> Ints:
    """Return the length of each image's closest reference [N]."""
    order = np.lexsort((reference_lengths, np.abs(reference_lengths - lengths[image_index]), image_index))
    first = np.unique(image_index[order], return_index=True)[1]
    return reference_lengths[order][first]


def _bleu(sums: Floats) -> Floats:
    """Compute BLEU [...,4] from sums of `_statistics` [...,10]."""
    matches, guesses = sums[..., :LONGEST], sums[..., LONGEST : 2 * LONGEST]
    precisions = np.cumprod((matches + _TINY) / (guesses + _SMALL), axis=-1)
    means = precisions ** (1 / np.arange(1, LONGEST + 1))
    ratio = (sums[..., -2:-1] + _TINY) / (sums[..., -1:] + _SMALL)
    return means * np.where(ratio < 1, np.exp(np.minimum(1 - 1 / ratio, 0)), 1)
