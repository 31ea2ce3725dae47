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
