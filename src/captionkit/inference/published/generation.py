"""How a published model generates: `generation_config.json`, or in older models `config.json`, as decoding settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from captionkit.data.special_tokens import SpecialTokens
from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.search import Decoding

#: tokens that transformers generates where nothing says how many
USUAL_LENGTH = 20
_LONGEST = 1000
#: settings that change captions and are not followed, with the values at which they change nothing
_UNKNOWN = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
    "typical_p": 1.0,
    "min_p": None,
    "penalty_alpha": None,
}


class Generation(NamedTuple):
    """What a model's generation config says."""

    decoding: Decoding
    special: SpecialTokens
    #: further end tokens; the decoder's steps rank them as the first
    other_ends: frozenset[int]


def read_generation(
    config: Mapping[str, Any], *, length: int = USUAL_LENGTH, positions: int | None = None
) -> Generation:
    """Read a generation config. Raises ModelError.

    `length` is the most tokens of a caption where it names none; the decoder has `positions` for so many, if limited.
    """
    start = _token(config, "decoder_start_token_id", _token(config, "bos_token_id", None))
    ends = _ends(config.get("eos_token_id"))
    if start is None or not ends:
        raise ModelError("no start token or no end token is given (decoder_start_token_id, eos_token_id)")
    for name, neutral in _UNKNOWN.items():
        if config.get(name, neutral) not in (neutral, None):
            logging.getLogger("captionkit").warning("%s of the model's generation config is not followed", name)
    forced = _token(config, "forced_bos_token_id", None)
    banned, phrases = _banned(config)
    special = SpecialTokens(
        (start,) if forced is None else (start, forced),
        ends[0],
        banned,
        phrases,
        0 if forced is None else 1,
        _token(config, "forced_eos_token_id", None) is not None,
    )
    longest = (positions or _LONGEST) - len(special.start) + special.counted
    return Generation(_decoding(config, length, longest), special, frozenset(ends[1:]))


def _decoding(config: Mapping[str, Any], length: int, longest: int) -> Decoding:
    def given(name: str, usual: Any) -> Any:
        value = config.get(name)
        return usual if value is None else value

    most = config.get("max_new_tokens")
    if most is None:
        # `max_length` counts the start token, unless it is transformers' own default.
        total = given("max_length", USUAL_LENGTH)
        most = length if total == USUAL_LENGTH else total - 1
    least = given("min_new_tokens", max(0, given("min_length", 0) - 1))
    sampling: dict[str, Any] = {}
    if given("do_sample", False):
        sampling = {
            "temperature": given("temperature", 1.0),
            "top_k": given("top_k", 50),
            "top_p": given("top_p", 1.0),
        }
    most = min(max(1, most), longest, _LONGEST)
    try:
        return Decoding(
            num_beams=given("num_beams", 1),
            length_penalty=max(0.0, given("length_penalty", 1.0)),
            min_length=min(least, most),
            max_length=most,
            no_repeat_ngram_size=given("no_repeat_ngram_size", 0),
            early_stopping=str(given("early_stopping", False)).lower(),
            **sampling,
        )
    except (CaptionkitError, TypeError) as error:
        raise ModelError(f"generation config: {error}") from None


def _token(config: Mapping[str, Any], name: str, usual: int | None) -> int | None:
    value = config.get(name)
    if value is None:
        return usual
    if type(value) is not int or value < 0:
        raise ModelError(f"{name} is {value!r:.60}; a token id is understood")
    return value


def _ends(value: Any) -> list[int]:
    ends = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(token) is not int or token < 0 for token in ends):
        raise ModelError(f"eos_token_id is {value!r:.60}; token ids are understood")
    return ends


def _banned(config: Mapping[str, Any]) -> tuple[frozenset[int], tuple[tuple[int, ...], ...]]:
    """Return the single tokens and the sequences that are never generated."""
    phrases = [tuple(phrase) for phrase in config.get("bad_words_ids") or () if phrase]
    tokens = [*(config.get("suppress_tokens") or ()), *(phrase[0] for phrase in phrases if len(phrase) == 1)]
    if any(type(token) is not int for phrase in (tokens, *phrases) for token in phrase):
        raise ModelError("bad_words_ids or suppress_tokens hold what is no token id")
    return frozenset(token for token in tokens if token >= 0), tuple(phrase for phrase in phrases if len(phrase) > 1)
