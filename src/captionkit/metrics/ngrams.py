"""Vectorised n-gram counting over many sentences, in numpy.

Sizes: S sentences, P tokens in all of them, E (sentence, n-gram) pairs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

#: the longest n-gram of BLEU and CIDEr
LONGEST = 4


class Sentences(NamedTuple):
    """Concatenated sentences as integers, equal for equal tokens."""

    tokens: Ints  # [P]
    lengths: Ints  # [S]

    @property
    def owners(self) -> Ints:
        """Return the sentence index of each token, [P]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


class Counts(NamedTuple):
    """Counts of each sentence's n-grams, sorted by sentence, then n-gram."""

    owners: Ints  # [E], the sentence
    grams: Ints  # [E]
    counts: Ints  # [E]
    size: int  # grams are below this


def number(sentences: Sequence[Sequence[Hashable]], vocabulary: dict[Hashable, int]) -> Sentences:
    """Convert sentences to integers; `vocabulary` is extended by unknown tokens."""
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    flat = chain.from_iterable(sentences)
    tokens = (vocabulary.setdefault(token, len(vocabulary)) for token in flat)
    return Sentences(np.fromiter(tokens, np.int64, int(lengths.sum())), lengths)


def positions(sentences: Sentences) -> Iterator[tuple[Ints, NDArray[np.bool_]]]:
    """Yield, for n = 1 to 4, where n-grams start, [P'], and which of the (n-1)-grams start one."""
    owners = sentences.owners
    starts = np.arange(len(owners))
    yield starts, np.ones(len(owners), bool)
    for n in range(2, LONGEST + 1):
        kept = starts + n - 1 < len(owners)
        kept[kept] = owners[starts[kept]] == owners[starts[kept] + n - 1]
        starts = starts[kept]  # [P'] -> [P'']
        yield starts, kept


def ngrams(sentences: Sentences) -> Iterator[tuple[Ints, Ints]]:
    """Yield, for n = 1 to 4, where n-grams start, [P'], and their numbers, [P'], equal for equal n-grams of that n.

    An n-gram's number is that of the pair (its first n-1 tokens, its last token), so it fits 64 bits for any n.
    """
    size = sentences.tokens.max(initial=0) + 1
    grams = np.zeros(len(sentences.tokens), np.int64)
    for n, (starts, kept) in enumerate(positions(sentences), start=1):
        pairs = grams[kept] * size + sentences.tokens[starts + n - 1]
        grams = np.unique(pairs, return_inverse=True)[1].reshape(-1)
        yield starts, grams


def count(owners: Ints, grams: Ints) -> Counts:
    """Count the n-grams `grams` [P] of each of their `owners` [P]."""
    size = int(grams.max(initial=-1)) + 1
    keys, counts = np.unique(owners * max(size, 1) + grams, return_counts=True)  # [P] -> [E]
    return Counts(*np.divmod(keys, max(size, 1)), counts, size)


def find(keys: Ints, sorted_keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the index of each of `keys` in `sorted_keys`, and whether it is there (else the index means nothing)."""
    if not len(sorted_keys):
        return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
    places = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return places, sorted_keys[places] == keys
