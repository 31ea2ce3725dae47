"""Confidence intervals of corpus scores, and significance of the difference of two systems, by resampling the images.

A corpus score is a function of sums over images (`MetricResult`), so R resamples are one product [R,N] x [N,S].
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from captionkit.metrics.metric import Floats, MetricResult

#: resamples drawn at a time, to bound the memory: 64 x N floats
_CHUNK = 64
_EDGES = (2.5, 97.5)  # percentiles of the 95 % interval


def bootstrap(results: list[MetricResult], *, resamples: int, seed: int) -> list[Floats]:
    """Return 95 % percentile intervals [2,M] of each result's corpus scores (Efron 1979), from shared resamples."""
    samples: list[list[Floats]] = [[] for _ in results]
    images = len(results[0].statistics) if results else 0
    for counts in _resampled(images, resamples, seed):
        for result, found in zip(results, samples, strict=True):
            found.append(result.corpus(counts @ result.statistics))  # [C,N] x [N,S] -> [C,S] -> [C,M]
    return [np.percentile(np.concatenate(found), _EDGES, axis=0) for found in samples]


def paired(one: MetricResult, other: MetricResult, *, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Return the 95 % interval [2,M] of the difference `one` - `other` on the same images, and p-values [M].

    The interval is that of a paired bootstrap (Koehn 2004). The p-value comes from approximate randomisation, which
    swaps the two systems' captions image by image (Riezler and Maxwell 2005): how often chance gives as large a
    difference.
    """
    differences = [
        one.corpus(counts @ one.statistics) - other.corpus(counts @ other.statistics)
        for counts in _resampled(len(one.statistics), resamples, seed)
    ]
    interval = np.percentile(np.concatenate(differences), _EDGES, axis=0)
    both = one.statistics.sum(0) + other.statistics.sum(0)
    seen = np.abs(one.corpus(one.statistics.sum(0)) - other.corpus(other.statistics.sum(0)))
    change = other.statistics - one.statistics
    as_large = np.zeros(len(seen))
    for swaps in _swapped(len(change), resamples, seed):
        sums = one.statistics.sum(0) + swaps @ change  # [C,N] x [N,S] -> [C,S]
        # Rounding must not make an equal difference smaller.
        as_large += (np.abs(one.corpus(sums) - other.corpus(both - sums)) >= seen - 1e-12).sum(0)
    return interval, (as_large + 1) / (resamples + 1)


def _resampled(images: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each image is drawn in each resample, [C,N] at a time."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        many = min(_CHUNK, resamples - start)
        drawn = generator.integers(images, size=(many, images)) + np.arange(many)[:, None] * images
        yield np.bincount(drawn.ravel(), minlength=many * images).reshape(many, images).astype(np.float64)


def _swapped(images: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield which images' captions are swapped, [C,N] at a time."""
    generator = np.random.default_rng((seed, 1))
    for start in range(0, resamples, _CHUNK):
        yield generator.integers(2, size=(min(_CHUNK, resamples - start), images)).astype(np.float64)
