"""CHAIR (Rohrbach et al. 2018, arXiv 1809.02156): how often captions mention objects that are not in the image.

Objects are the 80 COCO categories, found in captions by a table of words (coco_objects.py), the longest phrase first:
"hot dog" is not a dog. A mention in a candidate is hallucinated if no reference of the image has its object:

    CHAIRi = hallucinated mentions / mentions
    CHAIRs = candidates with a hallucinated mention / candidates

The authors' program counts mentions in the same way: an object named twice counts twice. It also uses COCO's instance
annotations as ground truth; here only the references are used, so an object that is there, but that no reference
mentions, counts as hallucinated. Ambiguous words are read in favour of the candidate: candidates are searched for words
that definitely name an object, references for all words that may imply it (skiing, for skis).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from captionkit.metrics import coco_objects
from captionkit.metrics.metric import CaptionCollector, Floats, MetricResult, Tokens
from captionkit.metrics.ptb import tokenize

#: the 80 COCO categories
OBJECTS = tuple(coco_objects.NAMED)

_PERSON = "person"
_ANIMALS = frozenset(("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"))
# English words that are rare in captions of other languages; and articles, which count beside an English object word.
_ENGLISH = {"the", "with", "and", "of", "on", "are", "from"}
_ARTICLES = {"a", "an", "two", "three", "some"}
_SHORTEST_GERUND = 6  # letters: "riding", but not German "Ring"
_SHARE = 0.3


class Mention(NamedTuple):
    """Words of a caption, and the objects they may mean; the first is the usual one."""

    words: str
    things: tuple[str, ...]


class Chair(CaptionCollector):
    """CHAIRi and CHAIRs of tokenised English captions; less is better. Tokens must be text, else ValueError.

    The per-image scores are the share of a candidate's mentions that are hallucinated, 0 if it has none, and whether
    there is any; the result's `remarks` list the hallucinated objects.
    """

    names: tuple[str, ...] = ("CHAIRi", "CHAIRs")

    def update(self, candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
        """Add a batch as `CaptionCollector.update` does; tokens must be text."""
        for caption in (*candidates, *(reference for some in references for reference in some)):
            if len(caption) and not isinstance(caption[0], str):
                raise ValueError(f"{caption[0]!r} is no word; objects are found in words, not in token ids")
        super().update(candidates, references)

    @staticmethod
    def unfit(references: Sequence[Sequence[Tokens]]) -> str:
        """Return why the references cannot be used, namely if they are not English; "" if they can.

        References are English if a good part of them has one of the most frequent English words, a verb in -ing, or an
        article beside a word for an object; a few objects have the same name in many languages.
        """
        captions = [_words(caption) for some in references for caption in some]
        if sum(map(_looks_english, captions)) >= _SHARE * len(captions):
            return ""
        return "CHAIR is left out: its table of words is English, and the references are not"

    def compute(self) -> MetricResult:
        """Return the scores of all images so far."""
        counts = np.zeros((len(self.candidates), 2))  # [N,2]: mentions, hallucinated mentions
        lists = []
        for row, (said, written) in enumerate(zip(self.candidates, self.references, strict=True)):
            mentions = mentions_in(said)
            invented = _invented(mentions, written)
            counts[row] = len(mentions), len(invented)
            lists.append(", ".join(dict.fromkeys(mention.things[0] for mention in invented)))
        flagged = counts[:, 1:] > 0
        statistics = np.concatenate([counts, flagged, np.ones((len(counts), 1))], axis=1)  # [N,4]
        return MetricResult(
            self.names, _rates(statistics), statistics, _rates, less_is_better=True, remarks={"invented": lists}
        )


def objects_named(caption: str) -> set[str]:
    """Return the COCO categories that an English caption names: {"dog", "frisbee"}.

    A word that may mean one of several objects ("bike") counts as the usual one.
    """
    return {mention.things[0] for mention in mentions_in(tokenize(caption))}


def objects_invented(caption: str, references: Iterable[str]) -> list[str]:
    """Return the objects that a caption names and none of the image's references has, in the caption's order."""
    invented = _invented(mentions_in(tokenize(caption)), [tokenize(reference) for reference in references])
    return list(dict.fromkeys(mention.things[0] for mention in invented))


def mentions_in(tokens: Tokens) -> list[Mention]:
    """Return the mentions of objects in a candidate, in its order."""
    found = _found(_words(tokens), _table().named, article=True)
    if any(_ANIMALS & set(mention.things) for mention in found):
        found = [mention for mention in found if mention.words not in _table().or_animal]
    return found


def plural(phrase: str) -> str:
    """Return the regular plural of a phrase's last word."""
    if phrase.endswith(("s", "x", "z", "ch", "sh")):
        return phrase + "es"
    if phrase.endswith("y") and phrase[-2:-1] not in tuple("aeiou"):
        return phrase[:-1] + "ies"
    return phrase + "s"


def _looks_english(words: Sequence[str]) -> bool:
    if any(word in _ENGLISH or (len(word) >= _SHORTEST_GERUND and word.endswith("ing")) for word in words):
        return True
    return not _ARTICLES.isdisjoint(words) and bool(_found(words, _table().named, article=True))


class Phrases(NamedTuple):
    """Phrases, as words -> the objects they may mean; and the longest phrase length by first word."""

    things: Mapping[tuple[str, ...], tuple[str, ...]]
    longest: Mapping[str, int]

    @classmethod
    def of(cls, things: Mapping[tuple[str, ...], tuple[str, ...]]) -> Phrases:
        longest: dict[str, int] = {}
        for phrase in things:
            longest[phrase[0]] = max(longest.get(phrase[0], 0), len(phrase))
        return cls(things, longest)


class _Table(NamedTuple):
    """The phrases for candidates and for references, those that depend on whether an animal is named, and `_noun`'s."""

    named: Phrases
    possible: Phrases
    or_animal: frozenset[str]
    of_animals: frozenset[str]
    articles: frozenset[str]
    ends: frozenset[str]
    colours: frozenset[str]


@lru_cache(maxsize=1)
def _table() -> _Table:
    named: dict[tuple[str, ...], tuple[str, ...]] = {}
    for things, phrases in (coco_objects.NAMED | coco_objects.EITHER).items():
        for words in _phrases(phrases):
            named[words] = tuple(things.split(", "))
    named |= dict.fromkeys(_phrases(coco_objects.NOTHING), ())
    possible = dict(named)
    for thing, phrases in coco_objects.POSSIBLE.items():
        for words in _phrases(phrases):
            possible[words] = tuple(dict.fromkeys((*possible.get(words, ()), thing)))
    or_animal, of_animals = (
        frozenset(" ".join(words) for words in _phrases(listed))
        for listed in (coco_objects.OR_ANIMAL, coco_objects.OF_ANIMALS)
    )
    articles, ends, colours = (
        frozenset(listed.split()) for listed in (coco_objects.ARTICLES, coco_objects.ENDS, coco_objects.COLOURS)
    )
    return _Table(Phrases.of(named), Phrases.of(possible), or_animal, of_animals, articles, ends, colours)


def _phrases(listed: str) -> list[tuple[str, ...]]:
    """Return each phrase of a list, and its plural."""
    singular = [" ".join(phrase.split()) for phrase in listed.split(",")]
    return [tuple(phrase.split()) for one in singular if one for phrase in (one, plural(one))]


def _words(tokens: Iterable[str]) -> list[str]:
    return " ".join(tokens).casefold().replace("-", " ").split()


def _found(words: Sequence[str], table: Phrases, *, article: bool) -> list[Mention]:
    """Find the phrases of a table in a caption, from the left, longest first at each position.

    `article`: see `_noun`.
    """
    found, place = [], 0
    while place < len(words):
        longest = min(table.longest.get(words[place], 0), len(words) - place)
        phrase = next((p for n in range(longest, 0, -1) if (p := tuple(words[place : place + n])) in table.things), ())
        things = table.things[phrase] if phrase else _noun(words, place, article)
        if things:
            found.append(Mention(" ".join(phrase) or words[place], things))
        place += len(phrase) or 1
    return found


def _noun(words: Sequence[str], place: int, article: bool) -> tuple[str, ...]:
    """Return the object that a word means in "an orange" but not in "an orange cat".

    With `article`, only after an article.
    """
    thing = coco_objects.AFTER_ARTICLE.get(words[place])
    if thing is None or (article and not (place and words[place - 1] in _table().articles)):
        return ()
    after = words[place + 1 : place + 3]
    ends = not after or (after[0] in _table().ends and _table().colours.isdisjoint(after[1:]))
    return (thing,) if ends else ()


def _possible(references: Iterable[Tokens]) -> set[str]:
    things: set[str] = set()
    for reference in references:
        found = _found(_words(reference), _table().possible, article=False)
        animal = any(_ANIMALS & set(mention.things) for mention in found)
        things.update(
            thing
            for mention in found
            for thing in mention.things
            if not (animal and thing == _PERSON and mention.words in _table().of_animals)
        )
    return things


def _invented(mentions: Sequence[Mention], references: Iterable[Tokens]) -> list[Mention]:
    there = _possible(references) if mentions else set()
    return [mention for mention in mentions if there.isdisjoint(mention.things)]


def _rates(sums: Floats) -> Floats:
    """Compute CHAIRi, CHAIRs: [...,4] -> [...,2], from mentions, hallucinated ones, candidates with one, candidates."""
    mentions, invented, flagged, candidates = np.moveaxis(sums, -1, 0)
    return np.stack([invented / np.maximum(mentions, 1), flagged / np.maximum(candidates, 1)], axis=-1)
