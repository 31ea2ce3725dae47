"""The tokens of a vocabulary that a decoder treats specially."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from captionkit.errors import ModelError


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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as a model's `config.json` stores them."""
        return {
            **self._asdict(),
            "start": list(self.start),
            "banned": sorted(self.banned),
            "banned_phrases": [list(phrase) for phrase in self.banned_phrases],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpecialTokens:
        """Read what `to_dict` wrote; a missing field takes its default. Raises ModelError for anything else."""
        phrases = values.get("banned_phrases", [])
        rows = [values.get("start"), values.get("banned", []), *(phrases if isinstance(phrases, list) else [None])]
        single = [values.get("end"), values.get("counted", 0)]
        good = all(isinstance(row, list) and all(_is_id(token) for token in row) for row in rows)
        if not (good and rows[0] and all(map(_is_id, single)) and set(values) <= set(cls._fields)):
            raise ModelError("special_tokens: is no table of token ids; it is damaged, get the model again")
        start, banned = values["start"], values.get("banned", [])
        return cls(
            tuple(start),
            single[0],
            frozenset(banned),
            tuple(map(tuple, phrases)),
            single[1],
            bool(values.get("forced_end", False)),
        )


def _is_id(value: Any) -> bool:
    return type(value) is int and value >= 0
