"""Counting n-grams of many sentences at once, in numpy.

Sizes: S sentences, P tokens of all of them, E (sentence, n-gram) pairs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

#: the longest n-gram that BLEU and CIDEr look at
LONGEST = 4


class Sentences(NamedTuple):
    """Sentences end to end as numbers, equal numbers for equal tokens."""

    tokens: Ints  # [P]
    lengths: Ints  # [S]

    @property
    def owners(self) -> Ints:
        """The sentence of each token, [P]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


class Counts(NamedTuple):
    """How often each sentence has each of its n-grams; in the order of sentences, then n-grams."""

    owners: Ints  # [E], the sentence
    grams: Ints  # [E]
    counts: Ints  # [E]
    size: int  # grams are below this


def number(sentences: Sequence[Sequence[Hashable]], vocabulary: dict[Hashable, int]) -> Sentences:
    """Sentences as numbers; `vocabulary` grows by the tokens that it lacks."""
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    flat = chain.from_iterable(sentences)
    tokens = (vocabulary.setdefault(token, len(vocabulary)) for token in flat)
    return Sentences(np.fromiter(tokens, np.int64, int(lengths.sum())), lengths)


def positions(sentences: Sentences) -> Iterator[tuple[Ints, NDArray[np.bool_]]]:
    """For n = 1 to 4: where n-grams start, [P'], and which of the (n-1)-grams begin one."""
    owners = sentences.owners
    starts = np.arange(len(owners))
    yield starts, np.ones(len(owners), bool)
    for n in range(2, LONGEST + 1):
        kept = starts + n - 1 < len(owners)
        kept[kept] = owners[starts[kept]] == owners[starts[kept] + n - 1]
        starts = starts[kept]  # [P'] -> [P'']
        yield starts, kept


def ngrams(sentences: Sentences) -> Iterator[tuple[Ints, Ints]]:
    """For n = 1 to 4: where n-grams start, [P'], and their numbers, [P'], equal for equal n-grams of that n.

    An n-gram's number is that of the pair (its first n-1 tokens, its last token), so no n is too long for 64 bits.
    """
    size = sentences.tokens.max(initial=0) + 1
    grams = np.zeros(len(sentences.tokens), np.int64)
    for n, (starts, kept) in enumerate(positions(sentences), start=1):
        pairs = grams[kept] * size + sentences.tokens[starts + n - 1]
        grams = np.unique(pairs, return_inverse=True)[1].reshape(-1)
        yield starts, grams


def count(owners: Ints, grams: Ints) -> Counts:
    """Count the `grams` [P] of each of the `owners` [P] of them."""
    size = int(grams.max(initial=-1)) + 1
    keys, counts = np.unique(owners * max(size, 1) + grams, return_counts=True)  # [P] -> [E]
    return Counts(*np.divmod(keys, max(size, 1)), counts, size)


def find(keys: Ints, sorted_keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where each of `keys` stands in `sorted_keys`, and whether it is there (elsewhere the place means nothing)."""
    if not len(sorted_keys):
        return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
    places = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return places, sorted_keys[places] == keys
