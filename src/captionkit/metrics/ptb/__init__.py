"""Penn Treebank tokenisation of captions as in coco-caption, without Java.

coco-caption (Chen et al. 2015, arXiv 1504.00325; PTBTokenizer of pycocoevalcap) writes all captions into one file, one
per line, splits it with the PTBTokenizer of Stanford CoreNLP 3.4.1 (`-preserveLines -lowerCase`), and drops the tokens
in a list of punctuation. Here the same is done caption by caption.

The whole scanner of the original is covered (see rules.py): clitics and contractions, abbreviations with what follows
them, numbers, dates, fractions, phone numbers, hyphens and dashes, quotes, brackets, currencies, emoticons, web and
mail addresses, markup, and for every Unicode character whether it is a letter, a digit, a symbol, a space or ignored.
Its peculiarities are kept: brackets stay ("-lrb-", since the list of punctuation has them in capitals only), as do runs
of punctuation that are not on the list ("!!", "-----"); emoji are dropped; and a token can contain no-break spaces
("1\u00a01/2"), at which coco-caption's metrics, which use `str.split`, split it after all.

Known, intended differences come from the original's processing of captions as neighbours in one file:

- A few rules look beyond the line: the last token of "plan b." is "b." or, if the next caption starts with "The", "b";
"no." is one token if the next caption starts with a digit; a tag with an open quote includes the lines up to the next
quote. Here a caption is followed by the end of its line and nothing else.
- The file's last caption has no end of line, which a few rules require: "class of '99" ends in "'99", but there in
"99".
- A carriage return, form feed, vertical tab or Unicode line end splits a caption in two there, and all later captions
are assigned to the wrong image. Here it is a space.
- An unpaired surrogate, which makes coco-caption raise UnicodeEncodeError, is an unknown character here.
- Lower case follows Python's version of Unicode here and Java's there, which also differs on when a capital sigma next
to digits ends a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from captionkit.metrics.ptb.dfa import Scanner
from captionkit.metrics.ptb.rules import NAMED, RULES

#: the tokens that coco-caption drops
PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)

_SCANNER = Scanner(RULES, NAMED)
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_REMEMBERED, _LONGEST = 100_000, 40  # words in the cache, and longest cached word


def tokenize(caption: str) -> list[str]:
    """Return the tokens of one caption, lower-cased and without punctuation. Any text is valid; some has no tokens."""
    tokens: list[str] = []
    *words, last = caption.replace("\n", " ").split(" ")
    for word in words:
        split = _WORDS[word]
        if split is None:
            return _tokenize_line(caption)
        tokens += split
    split = _LAST_WORDS[last]
    if split is None:
        return _tokenize_line(caption)
    tokens += split
    return tokens


def tokenize_all(captions: Iterable[str]) -> list[list[str]]:
    """Tokenize each caption."""
    return [tokenize(caption) for caption in captions]


class _Words(dict[str, "tuple[str, ...] | None"]):
    """Cache: word, followed by a fixed character -> its tokens; None if they depend on more of the line."""

    def __init__(self, follower: str) -> None:
        super().__init__()
        self._follower = follower

    def __missing__(self, word: str) -> tuple[str, ...] | None:
        spellings, is_open = _scan(word + self._follower)
        tokens = tuple(_kept(spellings))
        # White space at the start of a word joins the space before it; at the end of a line's last token it is lost.
        if word[:1].isspace() or (tokens and tokens[-1][-1].isspace()) or (is_open and self._follower != "\n"):
            return self._remember(word, None)
        return self._remember(word, tokens)

    def _remember(self, word: str, tokens: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if len(word) <= _LONGEST:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[word] = tokens
        return tokens


_WORDS, _LAST_WORDS = _Words(" "), _Words("\n")


def _scan(text: str) -> tuple[list[str], bool]:
    """Return the lower-cased tokens of `text`, which ends in a space, and whether any depends on what follows it."""
    scanned = list(_SCANNER.scan(_ASTRAL.sub(_surrogates, text)))
    spellings = [_rejoined(spelling).lower() for spelling, _ in scanned if spelling]
    return spellings, any(is_open for _, is_open in scanned[:-1])  # except the final space, which may continue


def _tokenize_line(caption: str) -> list[str]:
    """Tokenize a whole caption at once, the slow way, stripping its line of tokens as coco-caption does."""
    spellings, _ = _scan(caption.replace("\n", " ") + "\n")
    return _kept(" ".join(spellings).rstrip().split(" "))


def _kept(spellings: Iterable[str]) -> list[str]:
    return [token for token in spellings if token and token not in PUNCTUATION]


def _surrogates(match: re.Match[str]) -> str:
    """Return a character beyond the Basic Multilingual Plane as two UTF-16 code units, on which the rules operate."""
    above = ord(match[0]) - 0x10000
    return chr(0xD800 + (above >> 10)) + chr(0xDC00 + (above & 0x3FF))


def _rejoined(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
