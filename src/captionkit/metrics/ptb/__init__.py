"""Penn Treebank tokenisation of captions, as coco-caption has it, without Java.

coco-caption (Chen et al. 2015, arXiv 1504.00325; PTBTokenizer of pycocoevalcap) writes all captions into one file, one
a line, has the PTBTokenizer of Stanford CoreNLP 3.4.1 split it with `-preserveLines -lowerCase`, and drops the tokens
of a list of punctuation. Here the same is done caption by caption.

Covered is all of the original's scanner (see ptb_rules.py): clitics and contractions, abbreviations with what follows
them, numbers, dates, fractions, phone numbers, hyphens and dashes, quotes, brackets, currencies, emoticons, web and
mail addresses, markup, and for every character of Unicode whether it is a letter, a digit, a sign, space or nothing.
The original's peculiarities are kept: brackets stay ("-lrb-", as the list of punctuation has them in capitals only),
and so do rows of punctuation that are not on the list ("!!", "-----"); emoji count for nothing; and a token can hold
no-break spaces ("1\u00a01/2"), at which coco-caption's metrics, which use `str.split`, split it after all.

Known to differ, on purpose, is what the original makes of captions' being neighbours in one file:

- A few rules look beyond the line: the last token of "plan b." is "b." or, where the next caption starts with "The",
  "b"; "no." is one token where the next caption starts with a digit; a tag with an open quote takes in the lines up
  to the next quote. Here a caption is followed by the end of its line and by nothing.
- The file's last caption has no end of line, which a few rules want: "class of '99" ends in "'99", but there in "99".
- A carriage return, form feed, vertical tab or Unicode line end makes two captions of one there, and all that follow
  are taken for their neighbours. Here it is space.
- Half a surrogate pair, of which coco-caption makes a UnicodeEncodeError, is here an unknown character.
- Lower case is that of Python's version of Unicode, there that of Java's, which also has its own idea of where a
  capital sigma next to digits ends a word.
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
_REMEMBERED, _LONGEST = 100_000, 40  # words, and characters of a word that is worth remembering


def tokenize(caption: str) -> list[str]:
    """The tokens of one caption: lower-cased, without punctuation. Any text will do; none has no tokens."""
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
    """`tokenize` for many captions."""
    return [tokenize(caption) for caption in captions]


class _Words(dict[str, "tuple[str, ...] | None"]):
    """Words, each with the same character after it -> their tokens; None where these depend on more of the line."""

    def __init__(self, follower: str) -> None:
        super().__init__()
        self._follower = follower

    def __missing__(self, word: str) -> tuple[str, ...] | None:
        spellings, is_open = _scan(word + self._follower)
        tokens = tuple(_kept(spellings))
        # Space that starts a word goes with the space before; that which ends a line's last token is lost.
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
    """The lower-cased tokens of `text`, which ends in space, and whether any depends on what comes after it."""
    scanned = list(_SCANNER.scan(_ASTRAL.sub(_surrogates, text)))
    spellings = [_rejoined(spelling).lower() for spelling, _ in scanned if spelling]
    return spellings, any(is_open for _, is_open in scanned[:-1])  # all but the space, which may go on


def _tokenize_line(caption: str) -> list[str]:
    """Tokenise the slow way: all of a caption at once, its line of tokens stripped as coco-caption does."""
    spellings, _ = _scan(caption.replace("\n", " ") + "\n")
    return _kept(" ".join(spellings).rstrip().split(" "))


def _kept(spellings: Iterable[str]) -> list[str]:
    return [token for token in spellings if token and token not in PUNCTUATION]


def _surrogates(match: re.Match[str]) -> str:
    """A character beyond the Basic Multilingual Plane as the two UTF-16 code units that the rules are about."""
    above = ord(match[0]) - 0x10000
    return chr(0xD800 + (above >> 10)) + chr(0xDC00 + (above & 0x3FF))


def _rejoined(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
