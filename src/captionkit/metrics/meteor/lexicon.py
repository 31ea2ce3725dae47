"""METEOR 1.5's lexical lookup: a word's stem, its WordNet synsets, and whether it is a function word."""

from __future__ import annotations

from dataclasses import dataclass

from captionkit.metrics.meteor.data import Tables
from captionkit.metrics.meteor.stemmer import stem

# WordNet's rules of detachment: an ending and its replacement, for nouns, then verbs, then adjectives.
_DETACHMENT = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ("er", ""), ("est", ""), ("er", "e"), ("est", "e"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LexiconWord:
    """A word. METEOR treats words with the same key as equal, and likewise stems."""

    key: int
    stem_key: int
    synsets: frozenset[str]
    is_function_word: bool


class Lexicon(dict[str, LexiconWord]):
    """Spellings to words, each looked up on first use."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self._tables = tables

    def __missing__(self, spelling: str) -> LexiconWord:
        word = self[spelling] = LexiconWord(
            java_hash(spelling),
            java_hash(stem(spelling)),
            self._synsets(spelling),
            spelling in self._tables.function_words,
        )
        return word

    def _synsets(self, spelling: str) -> frozenset[str]:
        synsets = self._tables.synsets
        bases = self._tables.bases.get(spelling) or [self._base(spelling)]
        return frozenset(number for form in (spelling, *bases) for number in synsets.get(form, "").split())

    def _base(self, spelling: str) -> str:
        if len(spelling) < 3 or spelling.endswith("ss"):
            return spelling
        for ending, replacement in _DETACHMENT:
            if spelling.endswith(ending):
                base = spelling[: -len(ending)] + replacement
                if base in self._tables.synsets:
                    return base
        return ""


def java_hash(text: str) -> int:
    """Return Java's String.hashCode, by which METEOR compares words: "variants" and "gelato" collide."""
    units = text.encode("utf-16-le", "surrogatepass")
    value = 0
    for low, high in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    return value
