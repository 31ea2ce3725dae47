"""Spelling of tokens: the Penn Treebank's replacements for characters of the text.

Each function maps the text of a token to its spelling; "" drops the token.
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
    """Drop white space or an unknown character."""
    return ""


def instead(spelling: str) -> Callable[[str], str]:
    """Return a function that always gives `spelling`."""
    return lambda _: spelling


def unhyphenated(text: str) -> str:
    """Remove soft hyphens; return a hyphen if nothing is left."""
    return text.replace("\u00ad", "") or "-"


def joined(text: str) -> str:
    """Replace spaces inside a token by no-break spaces."""
    return text.replace(" ", "\u00a0")


def ampersand(text: str) -> str:
    """Replace the entity, in any case, by the character."""
    return _AMPERSAND.sub("&", text)


def quotes(text: str) -> str:
    """Convert quotes and apostrophes to ASCII, double ones to two characters; entities in lower case only."""
    return text.replace("&apos;", "'").replace("&quot;", '"').translate(_QUOTES)


def dashes(text: str) -> str:
    """Convert three or four hyphens to a dash."""
    return "--" if len(text) in (3, 4) else text


def currency(text: str) -> str:
    """Replace the few currency signs that the Treebank has."""
    return _CURRENCIES.get(text, text)


def fraction(text: str) -> str:
    """Spell out the few fractions that the original does."""
    return _FRACTIONS.get(text, text)


def bracket(text: str) -> str:
    """Return a bracket's name."""
    return _BRACKETS[text]


def face(text: str) -> str:
    """Replace parentheses by their names, even in an emoticon."""
    return text.translate(_PARENTHESES)


def phone(text: str) -> str:
    """Make a phone number one token, with parentheses by name."""
    return joined(face(text))
