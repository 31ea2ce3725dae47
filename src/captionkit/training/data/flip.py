"""Mirrored images, and what becomes of captions that say left or right."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from captionkit.data.tokenizer import Text, has_cjk, split_words
from captionkit.errors import RecipeError
from captionkit.training.config.schema import ImageRecipe


def check_mirroring(image: ImageRecipe) -> None:
    """Raises RecipeError where `image.flip_swap` has no pairs of words to swap, or nothing is mirrored."""
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
    """Whether an image can be mirrored without making one of its captions wrong."""
    if not image.flip_unless:
        return True
    forbidden = re.compile("|".join(map(_pattern, image.flip_unless)), re.IGNORECASE)
    return not any(forbidden.search(_plain(caption)) for caption in captions)


def swap_words(caption: str, pairs: Sequence[str]) -> str:
    """`caption` with each word of `pairs` (first, second, first, second, ...) in the place of its partner.

    A part of a hyphenated word counts as a word ("left-hand"), a part of another does not ("leftover"). What is put in
    is spelt as in `pairs`, since captions are learnt in lower case.
    """
    # A longer one first: of "left" and "to the left", the latter.
    order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place]))
    found = re.compile("|".join(f"({_pattern(pairs[place])})" for place in order), re.IGNORECASE)
    return found.sub(lambda match: pairs[order[match.lastindex - 1] ^ 1], _plain(caption))


def swapped_captions(captions: Sequence[str], text: Text, image: ImageRecipe) -> list[str] | None:
    """What the captions of an image say of its mirror image, with the pairs `image.flip_unless` swapped.

    None if one would lose a word that the vocabulary of `text` does not have: the image had better not be mirrored.
    """
    swapped = [swap_words(caption, image.flip_unless) for caption in captions]
    lossy = any(text.unk_id in ids for ids in text.encode_batch(swapped))
    return None if lossy and _unknown(swapped, text) - _unknown(captions, text) else swapped


def _unknown(captions: Iterable[str], text: Text) -> set[str]:
    known = text.tokenizer.token_to_id
    return {word for words in split_words(captions) for word in words if known(word) is None}


def _pattern(word: str) -> str:
    """Finds `word` where it stands alone; Chinese and Japanese have no spaces that would tell."""
    word = _plain(word)
    before, after = ("" if has_cjk(word[end]) else edge for end, edge in ((0, r"(?<!\w)"), (-1, r"(?!\w)")))
    return f"{before}{re.escape(word)}{after}"


def _plain(text: str) -> str:
    """An accent may be a part of its letter or follow it; here it is a part."""
    return unicodedata.normalize("NFC", text)
