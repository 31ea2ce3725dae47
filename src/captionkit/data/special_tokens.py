"""The tokens of a vocabulary that a decoder treats specially."""

from __future__ import annotations

from typing import NamedTuple


class SpecialTokens(NamedTuple):
    """Token ids that begin and end captions, and those that are in none. They may coincide."""

    #: fed to the decoder before the first token of a caption; at least one
    start: tuple[int, ...]
    end: int
    #: tokens that are never generated
    banned: frozenset[int] = frozenset()
    #: sequences of several tokens that no caption contains
    banned_phrases: tuple[tuple[int, ...], ...] = ()
    #: how many of the start tokens, the last ones, count as generated where lengths are counted as in transformers
    counted: int = 0
    #: whether a caption that reaches `max_length` ends there with the end token, as transformers' forced_eos_token_id
    forced_end: bool = False
