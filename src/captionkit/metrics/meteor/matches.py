"""Possible matches of a candidate with a reference: METEOR 1.5's matchers (Denkowski and Lavie 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from captionkit.metrics.meteor.lexicon import LexiconWord
from captionkit.metrics.meteor.paraphrases import Paraphrases, Phrase

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)


class Match(NamedTuple):
    """`length` words of the candidate from `start`, matched with `reference_length` words of the reference.

    The start in the reference is the match's index in the list of all matches. For `covered` see `make_match`.
    """

    module: int
    start: int
    length: int
    reference_length: int
    covered: int


def make_match(module: int, start: int, length: int = 1, reference_length: int = 1) -> Match:
    """Create a match, with the candidate words that it covers as bits."""
    return Match(module, start, length, reference_length, ((1 << length) - 1) << start)


@dataclass(eq=False)
class Sentence:
    """A normalised caption: its words, its encoding for paraphrase lookup, and its phrases that have paraphrases.

    parts: all its phrases. partners: cache of the matches found in this sentence, by word of the other side.
    """

    words: Sequence[LexiconWord]
    spelt: str = ""
    phrases: Sequence[Phrase] = ()
    parts: frozenset[str] = frozenset()
    partners: dict[LexiconWord, list[Match]] = field(default_factory=dict)
    keys: list[int] = field(init=False)
    function_words: int = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [word.key for word in self.words]
        self.function_words = [word.is_function_word for word in self.words].count(True)


def parts_of(spelt: str, longest: int) -> frozenset[str]:
    """Return all phrases of up to `longest` words of an encoded sentence."""
    size = len(spelt)
    return frozenset([spelt[i:j] for i in range(size) for j in range(i + 1, min(i + longest, size) + 1)])


def possible_matches(candidate: Sentence, reference: Sentence, paraphrases: Paraphrases) -> list[list[Match]]:
    """Return, for each word of the reference, the matches that start there, in METEOR's order, which breaks ties.

    If both sentences are equal, words match exactly only.
    """
    if candidate.keys == reference.keys:
        return [[match for match in _partners(candidate, word) if match.module == EXACT] for word in reference.words]
    matches = [_partners(candidate, word) for word in reference.words]
    for place, match in _by_paraphrase(candidate, reference, paraphrases):
        matches[place] = [*matches[place], match]
    return matches


def _partners(candidate: Sentence, word: LexiconWord) -> list[Match]:
    """Return the candidate's matches of a single word: by spelling, then by stem, then by synsets."""
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
    """Return paraphrase matches with their positions in the reference: first the reference's, then the candidate's."""
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
