"""What of a candidate may match what of a reference: METEOR 1.5's matchers (Denkowski and Lavie 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from captionkit.metrics.meteor.paraphrases import Paraphrases, Phrase
from captionkit.metrics.meteor.words import Word

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)


class Match(NamedTuple):
    """`length` words of the candidate from `start` on for `reference_length` words of the reference.

    Where those start in the reference is the place of the match in the list of all. Of `covered` see `make_match`.
    """

    module: int
    start: int
    length: int
    reference_length: int
    covered: int


def make_match(module: int, start: int, length: int = 1, reference_length: int = 1) -> Match:
    """A match with the words of the candidate that it covers, as bits."""
    return Match(module, start, length, reference_length, ((1 << length) - 1) << start)


@dataclass(eq=False)
class Sentence:
    """A normalised caption: its words, its spelling for paraphrases, and the phrases that can be said otherwise.

    parts: all phrases of it. partners: what was found to match of the sentence, by a word of the other side.
    """

    words: Sequence[Word]
    spelt: str = ""
    phrases: Sequence[Phrase] = ()
    parts: frozenset[str] = frozenset()
    partners: dict[Word, list[Match]] = field(default_factory=dict)
    keys: list[int] = field(init=False)
    function_words: int = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [word.key for word in self.words]
        self.function_words = [word.is_function_word for word in self.words].count(True)


def parts_of(spelt: str, longest: int) -> frozenset[str]:
    """All phrases of up to `longest` words of a spelt sentence."""
    size = len(spelt)
    return frozenset([spelt[i:j] for i in range(size) for j in range(i + 1, min(i + longest, size) + 1)])


def possible_matches(candidate: Sentence, reference: Sentence, paraphrases: Paraphrases) -> list[list[Match]]:
    """For each word of the reference, the matches that start there, in METEOR's order, which decides between equals.

    Where both say the same, words only match exactly.
    """
    if candidate.keys == reference.keys:
        return [[match for match in _partners(candidate, word) if match.module == EXACT] for word in reference.words]
    matches = [_partners(candidate, word) for word in reference.words]
    for place, match in _by_paraphrase(candidate, reference, paraphrases):
        matches[place] = [*matches[place], match]
    return matches


def _partners(candidate: Sentence, word: Word) -> list[Match]:
    """What of the candidate matches a word by itself: by its spelling, then its stem, then its synsets."""
    found = candidate.partners.get(word)
    if found is None:
        exact, stems, synonyms = [], [], []
        key, stem_key, share_none = word.key, word.stem_key, word.synsets.isdisjoint
        for place, other in enumerate(candidate.words):
            if other.key == key:
                exact.append(make_match(EXACT, place))
                continue
            if other.stem_key == stem_key:
                stems.append(make_match(STEM, place))
            if not share_none(other.synsets):
                synonyms.append(make_match(SYNONYM, place))
        found = candidate.partners[word] = exact + stems + synonyms
    return found


def _by_paraphrase(candidate: Sentence, reference: Sentence, paraphrases: Paraphrases) -> list[tuple[int, Match]]:
    """Matches and their places in the reference: first the reference's phrases said otherwise, then the candidate's."""
    matches = []
    for phrase in reference.phrases:
        if not phrase.others.isdisjoint(candidate.parts):
            for other in paraphrases.in_order(phrase.row):
                for place in _places(candidate.spelt, other):
                    matches.append((phrase.start, make_match(PARAPHRASE, place, len(other), phrase.length)))
    for phrase in candidate.phrases:
        if not phrase.others.isdisjoint(reference.parts):
            for other in paraphrases.in_order(phrase.row):
                for place in _places(reference.spelt, other):
                    matches.append((place, make_match(PARAPHRASE, phrase.start, phrase.length, len(other))))
    return matches


def _places(sentence: str, part: str) -> list[int]:
    places, place = [], sentence.find(part)
    while place >= 0:
        places.append(place)
        place = sentence.find(part, place + 1)
    return places
