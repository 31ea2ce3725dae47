"""Correctness of a caption as far as references can tell: how much of what the references agree on it contains.

People who describe an image differ in most words, and agree on what it shows. Each word is weighted by the square of
the share of references that use it, times its rarity (the inverse document frequency of CIDEr): the main object weighs
most, "a" and "on" almost nothing. Words for people (a man is a person, a skier, a guy) count as one word, with the mean
rarity of those that the references use.

A strict reader graded 96 captions of everyday photos, without seeing references: true or right in the main thing, or
false. The agreement ranked the former above the latter with an area under the ROC curve of 0.92 (CIDEr-D 0.78, METEOR
0.76), and nine in ten captions with at least `RIGHT_FROM` were graded as right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from captionkit.metrics.tokens import TOKENIZERS, tokenizer_of
from captionkit.utils.grouping import map_groups

#: the agreement from which the main statement of a caption counts as right
RIGHT_FROM = 0.2

_PERSON = "person"
_PEOPLE = frozenset((
    "adult", "adults", "baby", "biker", "boy", "boys", "child", "children", "couple", "crowd", "cyclist", "family",
    "female", "girl", "girls", "group", "guy", "guys", "hiker", "kid", "kids", "ladies", "lady", "male", "man", "men",
    "people", "person", "player", "players", "rider", "skateboarder", "skier", "snowboarder", "someone", "surfer",
    "team", "toddler", "woman", "women",
))  # fmt: skip


class ReferenceAgreement:
    """The references of images, by the images' index."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        """`references` are the captions of each image, at least one."""
        self._tokenize = TOKENIZERS[tokenizer_of(references)]
        self._written = [[set(words) for words in some] for some in map_groups(self._tokenize, references)]
        self._used: list[set[str]] = [set().union(*some) for some in self._written]
        self._images_with = Counter(word for used in self._used for word in used)

    def used(self, place: int, word: str) -> bool:
        """Return whether the references of the image at index `place` use `word`."""
        tokens = self._tokenize([word])[0]
        return bool(tokens) and all(token in self._used[place] for token in tokens)

    def agreement(self, said: Sequence[str]) -> NDArray[np.float64]:
        """Return the agreement, 0 to 1, of the captions [N] of all images with their references."""
        candidates = self._tokenize(said)
        return np.array([self._of_one(place, words) for place, words in enumerate(candidates)])

    def _of_one(self, place: int, words: Sequence[str]) -> float:
        references = [{_called(word) for word in reference} for reference in self._written[place]]
        rarity = defaultdict(list)
        for word in sorted(self._used[place]):
            rarity[_called(word)].append(np.log(len(self._used) / self._images_with[word]))
        weights = {
            thing: float(np.mean(rare)) * (sum(thing in reference for reference in references) / len(references)) ** 2
            for thing, rare in rarity.items()
        }
        total = sum(weights.values())
        return sum(weights.get(thing, 0.0) for thing in {_called(word) for word in words}) / total if total else 0.0


def _called(word: str) -> str:
    return _PERSON if word in _PEOPLE else word
