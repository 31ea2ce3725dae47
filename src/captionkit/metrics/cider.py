"""CIDEr and CIDEr-D (Vedantam, Zitnick and Parikh 2015, arXiv 1411.5726).

What coco-caption prints as "CIDEr" is CIDEr-D: with clipped counts and a Gaussian penalty on the difference in length,
so that repeating words gains nothing. Here it is called CIDEr-D. Both weight n-grams by tf-idf, compare by cosine
similarity for n = 1 to 4, and average over n and references, times ten. Papers report 100 times the number here.
"""

from __future__ import annotations

import numpy as np

from captionkit.metrics.document_frequencies import DocumentFrequencies
from captionkit.metrics.metric import Floats, MetricResult, WordCollector, mean_result
from captionkit.metrics.ngrams import LONGEST, Counts, Ints, count, find, ngrams, number

_SIGMA = 6.0


class Cider(WordCollector):
    """Plain CIDEr of tokenised captions (equations 1 to 3), times ten as in the authors' code.

    `frequencies` are computed from the scored references unless those of another corpus are given.
    """

    names: tuple[str, ...] = ("CIDEr",)
    _clipped = False

    def __init__(self, frequencies: DocumentFrequencies | None = None) -> None:
        super().__init__()
        self.frequencies = frequencies

    def compute(self) -> MetricResult:
        """Return the scores of all images so far."""
        images = len(self.candidates)
        flat = [reference for some in self.references for reference in some]
        image_index = np.repeat(np.arange(images), [len(some) for some in self.references])  # [R], of each reference
        frequencies = self.frequencies or DocumentFrequencies.of(self.references)
        sentences = number([*self.candidates, *flat], dict(frequencies.vocabulary))
        likeness = np.zeros(len(flat))
        for (starts, grams), inverse in zip(ngrams(sentences), frequencies.inverse(sentences), strict=True):
            counts = count(sentences.owners[starts], grams)
            weight = np.zeros(counts.size)
            weight[grams] = inverse
            likeness += self._likeness(counts, counts.counts * weight[counts.grams], image_index, images)
        if self._clipped:
            likeness *= _penalty(sentences.lengths, image_index, images)
        summed = np.bincount(image_index, likeness, minlength=images) / LONGEST
        written = np.bincount(image_index, minlength=images)
        return mean_result(self.names, (10 * summed / np.maximum(written, 1)).reshape(-1, 1))

    def _likeness(self, counts: Counts, weights: Floats, image_index: Ints, images: int) -> Floats:
        """Return the cosine [R] of each reference's tf-idf vector and its image's candidate's; `weights` [E]."""
        norms = np.sqrt(np.bincount(counts.owners, weights**2, minlength=images + len(image_index)))
        said = int(np.searchsorted(counts.owners, images))  # the candidates' entries come first
        reference = counts.owners[said:] - images
        keys = counts.owners[:said] * counts.size + counts.grams[:said]
        places, there = find(image_index[reference] * counts.size + counts.grams[said:], keys)
        candidate, written = weights[places[there]], weights[said:][there]
        products = (np.minimum(candidate, written) if self._clipped else candidate) * written
        dots = np.bincount(reference[there], products, minlength=len(image_index))
        both = norms[image_index] * norms[images:]
        return np.divide(dots, both, out=np.zeros(len(dots)), where=both > 0)


class CiderD(Cider):
    """CIDEr-D of tokenised captions (equation 4 onwards): what captioning papers and coco-caption call CIDEr."""

    names: tuple[str, ...] = ("CIDEr-D",)
    _clipped = True


def _penalty(lengths: Ints, image_index: Ints, images: int) -> Floats:
    """Return exp(-difference^2 / (2 sigma^2)) [R], with lengths counted in bigrams.

    coco-caption counts bigrams, so zero words and one word are equally long.
    """
    bigrams = np.maximum(lengths - 1, 0)
    return np.exp(-((bigrams[:images][image_index] - bigrams[images:]) ** 2) / (2 * _SIGMA**2))
