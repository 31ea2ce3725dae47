r"""The notation of the rules: regular expressions without anchors, references and greediness.

`ab` `a|b` `(a)` `a*` `a+` `a?` `a{2}` `a{2,4}` `[a-z_]` `[^a]`, `.` (any character but a newline), `{name}` (another
pattern) and, in and out of brackets, `\n` `\r` `\t` `\f` `\u00ad` and a backslash before a character that stands for
itself. ASCII letters outside brackets match in either case; inside brackets a character matches itself alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from captionkit.metrics.ptb.characters import Ranges

_LAST = 0xFFFF  # the scanner works on UTF-16 code units, as the original does
_CHARACTER = r"\\u[0-9a-f]{4}|\\.|[^\\]"
_LEXEME = re.compile(rf"\[(\^?)((?:{_CHARACTER})*?)\]|\{{(\w+)(?:,(\w+))?\}}|({_CHARACTER})", re.DOTALL)
_MEMBER = re.compile(rf"({_CHARACTER})(?:-({_CHARACTER}))?", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}
_MORE_CASES = {"i": "\u0130\u0131", "k": "\u212a", "s": "\u017f"}  # their upper or lower case is the ASCII letter


@dataclass(frozen=True)
class Characters:
    """One character from the ranges."""

    ranges: Ranges


@dataclass(frozen=True)
class Sequence:
    """The parts in sequence."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    """One of the parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """The part, repeated `least` to `most` times; None is unbounded."""

    part: Node
    least: int
    most: int | None


Node = Characters | Sequence | Choice | Repeat


class RegexParser:
    """Recursive-descent parser of patterns; `named` has the patterns and character ranges behind `{name}`."""

    def __init__(self, named: Mapping[str, str | Ranges]) -> None:
        self._named = named
        self._known: dict[str, Node] = {}

    def parse(self, pattern: str) -> Node:
        """Return the syntax tree of a pattern."""
        if pattern not in self._known:
            lexemes = list(_LEXEME.finditer(pattern))[::-1]
            self._known[pattern] = self._choice(lexemes)
            if lexemes:
                raise ValueError(f"stray {lexemes[-1][0]!r} in the pattern {pattern!r}")
        return self._known[pattern]

    def _choice(self, lexemes: list[re.Match[str]]) -> Node:
        parts = [self._sequence(lexemes)]
        while lexemes and lexemes[-1][0] == "|":
            lexemes.pop()
            parts.append(self._sequence(lexemes))
        return Choice(tuple(parts))

    def _sequence(self, lexemes: list[re.Match[str]]) -> Node:
        parts: list[Node] = []
        while lexemes and lexemes[-1][0] not in ("|", ")"):
            parts.append(self._part(lexemes))
        return Sequence(tuple(parts))

    def _part(self, lexemes: list[re.Match[str]]) -> Node:
        node = self._single(lexemes)
        while lexemes and (counts := _counts(lexemes[-1])):
            lexemes.pop()
            node = Repeat(node, *counts)
        return node

    def _single(self, lexemes: list[re.Match[str]]) -> Node:
        lexeme = lexemes.pop()
        negated, members, name, _, character = lexeme.groups()
        if lexeme[0] == "(":
            node = self._choice(lexemes)
            lexemes.pop()
            return node
        if lexeme[0] == ".":
            return Characters(_all_but(((10, 10),)))
        if name:
            named = self._named[name]
            return self.parse(named) if isinstance(named, str) else Characters(named)
        if character:
            return Characters(_either_case(_unescaped(character)))
        listed = _merged((ord(_unescaped(low)), ord(_unescaped(high or low))) for low, high in _MEMBER.findall(members))
        return Characters(_all_but(listed) if negated else listed)


def _counts(lexeme: re.Match[str]) -> tuple[int, int | None] | None:
    """Return the bounds of a repetition suffix; None if it is not one."""
    if lexeme[3] and lexeme[3].isdecimal():
        return int(lexeme[3]), int(lexeme[4] or lexeme[3])
    return {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(lexeme[0])


def _unescaped(character: str) -> str:
    if character.startswith("\\u"):
        return chr(int(character[2:], 16))
    return _ESCAPES.get(character[-1], character[-1]) if len(character) == 2 else character


def _either_case(character: str) -> Ranges:
    if not (character.isascii() and character.isalpha()):
        return ((ord(character), ord(character)),)
    cases = character.lower() + character.upper() + _MORE_CASES.get(character.lower(), "")
    return _merged((ord(case), ord(case)) for case in cases)


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _all_but(ranges: Ranges) -> Ranges:
    starts = [0, *(high + 1 for _, high in ranges)]
    ends = [*(low - 1 for low, _ in ranges), _LAST]
    return tuple((start, end) for start, end in zip(starts, ends, strict=True) if start <= end)
