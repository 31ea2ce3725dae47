"""Horizontal flips, and captions that mention left or right."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from captionkit.data.tokenizer import Tokenizer, has_cjk, split_words
from captionkit.errors import RecipeError
from captionkit.training.config.schema import ImageRecipe


def check_mirroring(image: ImageRecipe) -> None:
    """Raise RecipeError if `image.flip_swap` is set without pairs of words to swap, or without `image.flip`."""
    if not image.flip_swap:
        return
    if not image.flip:
        raise RecipeError("image.flip_swap = true: image.flip is false, so nothing is mirrored; set image.flip too")
    words = [_plain(word).casefold() for word in image.flip_unless]
    listed = f"image.flip_unless = {','.join(image.flip_unless)!r}"
    if not words or len(words) % 2:
        raise RecipeError(f"{listed}: image.flip_swap wants pairs of words, one after the other; give 'left,right'")
    if len(set(words)) < len(words):
        raise RecipeError(f"{listed}: image.flip_swap wants each word in one pair alone; name it once")


def can_flip(captions: Sequence[str], image: ImageRecipe) -> bool:
    """Return whether an image can be flipped without making one of its captions wrong."""
    if not image.flip_unless:
        return True
    forbidden = re.compile("|".join(map(_pattern, image.flip_unless)), re.IGNORECASE)
    return not any(forbidden.search(_plain(caption)) for caption in captions)


def swap_words(caption: str, pairs: Sequence[str]) -> str:
    """Replace each word of `pairs` (first, second, first, second, ...) in `caption` by its partner.

    A part of a hyphenated word counts as a word ("left-hand"), other parts of words do not ("leftover"). Replacements
    are spelled as in `pairs`, since captions are lower-cased for training anyway.
    """
    # Longer words first: "to the left" must match before "left".
    order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place]))
    found = re.compile("|".join(f"({_pattern(pairs[place])})" for place in order), re.IGNORECASE)
    return found.sub(lambda match: pairs[order[(match.lastindex or 0) - 1] ^ 1], _plain(caption))


def swapped_captions(captions: Sequence[str], tokenizer: Tokenizer, image: ImageRecipe) -> list[str] | None:
    """Return the captions of the flipped image, with the word pairs of `image.flip_unless` swapped.

    Returns None if swapping would introduce a word outside of the vocabulary of `text`: then do not flip the image.
    """
    swapped = [swap_words(caption, image.flip_unless) for caption in captions]
    lossy = any(tokenizer.unk_id in ids for ids in tokenizer.encode_batch(swapped))
    return None if lossy and _unknown(swapped, tokenizer) - _unknown(captions, tokenizer) else swapped


def _unknown(captions: Iterable[str], tokenizer: Tokenizer) -> set[str]:
    known = tokenizer.backend.token_to_id
    return {word for words in split_words(captions) for word in words if known(word) is None}


def _pattern(word: str) -> str:
    """Return a regex that matches `word` as a whole word; no word boundaries in Chinese and Japanese."""
    word = _plain(word)
    before, after = ("" if has_cjk(word[end]) else edge for end, edge in ((0, r"(?<!\w)"), (-1, r"(?!\w)")))
    return f"{before}{re.escape(word)}{after}"


def _plain(text: str) -> str:
    """Normalize to NFC, so that composed and decomposed accents compare equal."""
    return unicodedata.normalize("NFC", text)
