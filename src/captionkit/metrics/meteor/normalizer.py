"""Tokenisation of METEOR 1.5's option -norm for English, with punctuation kept (its class Normalizer).

The rules and their order are those of the METEOR 1.5 release. They change little in captions that are already split
into Penn Treebank tokens: hyphenated words are split, and full stops are separated except after known abbreviations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_ALPHA = (
    "A-Za-z\u0160\u017d\u0161\u017e\u0178\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e\u0400-\u04ff\u0500-\u0527"
    "\ua640-\ua66e\ua67e-\ua697\u1d00-\u1d7f"
)
_ALNUM = "0-9" + _ALPHA
_UNTOUCHED = re.compile(r"[a-z0-9 ]*\Z").match

_SYMBOL = re.compile(rf"([^{_ALNUM} \t\n\x0b\f\r.'`,\-‘’])")
_DOTS = re.compile(r"\.(\.+)")
_LAST_DOT = re.compile(r"DOTMULTI\.([^.])")
_QUOTES_AND_DASHES = (
    (re.compile("[`‘’]"), "'"),
    (re.compile("[“”]|''"), ' " '),
    (re.compile("–|--"), "-"),
    (re.compile(rf"([{_ALNUM}.])-([{_ALNUM}])"), r"\1 \2"),
)
_COMMAS = tuple(
    (re.compile(rule), r"\1 , \2") for rule in ("([^0-9]),([^0-9])", "([0-9]),([^0-9])", "([^0-9]),([0-9])")
)
_APOSTROPHES = (
    (re.compile(rf"([^{_ALPHA}])'([^{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(rf"([^{_ALPHA}0-9])'([{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(rf"([{_ALPHA}])'([^{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(rf"([{_ALPHA}])'([{_ALPHA}])"), r"\1 '\2"),
    (re.compile("([0-9])'(s)"), r"\1 '\2"),
)
_HAS_LETTER = re.compile(f"[{_ALPHA}]").search
_STARTS_LOWER = re.compile("[a-z]").match
_STARTS_WITH_DIGIT = re.compile("[0-9]").match
#: the characters that Java's String.trim strips
CONTROLS = "".join(map(chr, range(0x21)))
# Java's StringTokenizer splits at these only.
_SPACES = re.compile(r"[ \t\n\r\f]+")
_WIDE_SPACES = re.compile("[\u2000-\u200a\u202f\u205f\u3000\u00a0]")


def normalize(line: str, prefixes: Mapping[str, bool]) -> list[str]:
    """Return the words of a line in lower case.

    prefixes: abbreviations that keep their full stop; those with the value True only before a number.
    """
    if _UNTOUCHED(line):
        return line.split()
    line = _SYMBOL.sub(r" \1 ", f" {line} ")
    line = _protect_dots(line)
    for rule, replacement in (*_COMMAS, *_QUOTES_AND_DASHES, *_APOSTROPHES):
        line = rule.sub(replacement, line)
    line = " ".join(_without_full_stops(_split(line), prefixes))
    while "DOTDOTMULTI" in line:
        line = line.replace("DOTDOTMULTI", "DOTMULTI.")
    line = line.replace("DOTMULTI", ".")
    return _split(_WIDE_SPACES.sub(" ", line).strip(CONTROLS).lower())


def _protect_dots(line: str) -> str:
    """Encode consecutive dots so that they stay together: "..." -> "DOTDOTDOTMULTI"."""
    line = _DOTS.sub(r" DOTMULTI\1", line)
    while "DOTMULTI." in line:
        line = _LAST_DOT.sub(r"DOTDOTMULTI \1", line).replace("DOTMULTI.", "DOTDOTMULTI")
    return line


def _split(line: str) -> list[str]:
    return [word for word in _SPACES.split(line) if word]


def _without_full_stops(words: list[str], prefixes: Mapping[str, bool]) -> list[str]:
    return [_ending(word, following, prefixes) for word, following in zip(words, [*words[1:], ""], strict=True)]


def _ending(word: str, following: str, prefixes: Mapping[str, bool]) -> str:
    """Separate a word's full stop ("end ."), keep it ("dr.") or, among others, delete it ("u.s." -> "us")."""
    if len(word) < 2 or not word.endswith("."):
        return word
    stem = word[:-1]
    if "." in stem and _HAS_LETTER(stem):
        return word.replace(".", "")
    only_before_number = prefixes.get(stem)
    kept = (
        only_before_number is False
        or _STARTS_LOWER(following)
        or (only_before_number and _STARTS_WITH_DIGIT(following))
    )
    return word if kept else f"{stem} ."
