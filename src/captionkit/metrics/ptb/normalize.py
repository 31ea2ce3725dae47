"""How a token is written: what the Penn Treebank has in place of the characters of the text.

Each function takes the text of a token and gives its spelling; "" where there is no token.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_AMPERSAND = re.compile("&amp;", re.IGNORECASE)
_SINGLE_BRACKETS = {"(": "-LRB-", ")": "-RRB-"}
_BRACKETS = {**_SINGLE_BRACKETS, "{": "-LCB-", "}": "-RCB-", "[": "-LSB-", "]": "-RSB-"}
_PARENTHESES = str.maketrans(_SINGLE_BRACKETS)
_CURRENCIES = {"\u00a2": "cents", "\u00a3": "#", "\u0080": "$", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$"}
_FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
_QUOTES = str.maketrans(
    {
        '"': "''",
        **dict.fromkeys("\u0091\u2018\u201b\u2039", "`"),
        **dict.fromkeys("\u0092\u2019\u203a", "'"),
        **dict.fromkeys("\u0093\u201c\u00ab", "``"),
        **dict.fromkeys("\u0094\u201d\u00bb", "''"),
    }
)


def nothing(_: str) -> str:
    """Space, or an unknown character."""
    return ""


def instead(spelling: str) -> Callable[[str], str]:
    """The same whatever the text."""
    return lambda _: spelling


def unhyphenated(text: str) -> str:
    """Without soft hyphens; a dash where nothing else is left."""
    return text.replace("\u00ad", "") or "-"


def joined(text: str) -> str:
    """Spaces inside a token become no-break spaces."""
    return text.replace(" ", "\u00a0")


def ampersand(text: str) -> str:
    """The entity, in any case, becomes the character."""
    return _AMPERSAND.sub("&", text)


def quotes(text: str) -> str:
    """Quotes and apostrophes in ASCII, double ones as two characters; entities in lower case only."""
    return text.replace("&apos;", "'").replace("&quot;", '"').translate(_QUOTES)


def dashes(text: str) -> str:
    """Three or four hyphens are a dash."""
    return "--" if len(text) in (3, 4) else text


def currency(text: str) -> str:
    """The few signs that the Treebank knows."""
    return _CURRENCIES.get(text, text)


def fraction(text: str) -> str:
    """The few fractions that the original spells out."""
    return _FRACTIONS.get(text, text)


def bracket(text: str) -> str:
    """A bracket's name."""
    return _BRACKETS[text]


def face(text: str) -> str:
    """Parentheses by name, even in an emoticon."""
    return text.translate(_PARENTHESES)


def phone(text: str) -> str:
    """A phone number: one token, parentheses by name."""
    return joined(face(text))
