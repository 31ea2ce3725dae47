"""Translation of decoding constraints (words, phrases, prefix) from text to token ids."""

from __future__ import annotations

from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import CaptionkitError
from captionkit.inference.search import Constraints, Decoding

Ids = tuple[int, ...]

#: limit on live hypotheses per image: one beam for each possible count of generated forced tokens
_MOST = 1000


def constraints_of(decoding: Decoding, tokenizer: Tokenizer) -> Constraints:
    """Return the words, phrases and prefix of `decoding` as ids of the vocabulary, with what the model always bans.

    A banned word that is not in the vocabulary needs no constraint. Raises CaptionkitError, naming it, for any other
    word not in the vocabulary, and for a word that is both required and banned. With byte-level tokens a phrase stands
    for its usual spelling, and also matches the beginning of a longer word ("dog" in "doghouse").
    """
    for phrase in (decoding.prefix, *decoding.force_words, *decoding.bad_words):
        if not phrase.isascii() and phrase.encode("utf-8", "replace").decode("utf-8") != phrase:
            raise CaptionkitError(f"{phrase!a} is no text that can be encoded; write it in UTF-8")
    prefix = _known(tokenizer, "prefix", decoding.prefix) if decoding.prefix.strip() else ()
    words = {phrase: _known(tokenizer, "force_words", phrase) for phrase in decoding.force_words}
    hypotheses = decoding.num_beams * (1 + sum(map(len, words.values())))
    if hypotheses > _MOST:
        raise CaptionkitError(
            f"{len(words)} words with a beam of {decoding.num_beams} take {hypotheses:,} hypotheses an image, but "
            f"there may be {_MOST:,}; lower num_beams or ask for fewer words"
        )
    banned = [(phrase, ids) for phrase in decoding.bad_words for ids in _spellings(tokenizer, phrase)]
    for wanted, ids in {decoding.prefix: prefix, **words}.items():
        for phrase, banned_ids in banned:
            if _contains(ids, banned_ids):
                raise CaptionkitError(f"{wanted!r} must be said, but {phrase!r} is banned; leave out one of them")
    forbidden = (*tokenizer.special.banned_phrases, *(ids for _, ids in banned))
    return Constraints(prefix, forbidden, tuple(words.values()))


def _spellings(tokenizer: Tokenizer, phrase: str) -> set[Ids]:
    """Return the ids of a phrase at the beginning of a caption and within it; none if the vocabulary lacks a word."""
    spelled = (tokenizer.encode_phrase(phrase, first=first) for first in (True, False))
    return {tuple(ids) for ids, unknown in spelled if ids and not unknown}


def _known(tokenizer: Tokenizer, field: str, phrase: str) -> Ids:
    """Return the ids of a phrase; every word must be in the vocabulary."""
    ids, unknown = tokenizer.encode_phrase(phrase, first=field == "prefix")
    if unknown:
        names = ", ".join(map(repr, dict.fromkeys(unknown)))
        raise CaptionkitError(f"{field}: the model's vocabulary lacks {names}; use words that it was trained on")
    if not ids:
        raise CaptionkitError(f"{field}: {phrase!r} has no words; leave it out")
    return tuple(ids)


def _contains(ids: Ids, part: Ids) -> bool:
    return any(ids[start : start + len(part)] == part for start in range(len(ids) - len(part) + 1))
