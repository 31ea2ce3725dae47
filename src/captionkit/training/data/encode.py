"""Captions as token ids: each is encoded once, and those without any word are dropped here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from captionkit.data.layouts import CaptionSet, Example
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import TrainingError
from captionkit.utils.grouping import map_groups


class EncodedCaptions(NamedTuple):
    """A split with its captions' token ids, by image and caption, begin and end tokens included."""

    captions: CaptionSet
    tokens: Sequence[Sequence[list[int]]]

    def subset(self, indices: Sequence[int]) -> EncodedCaptions:
        """Return the images at `indices`, in that order."""
        return EncodedCaptions(self.captions.subset(indices), [self.tokens[index] for index in indices])


def encode_captions(captions: CaptionSet, tokenizer: Tokenizer) -> EncodedCaptions:
    """Encode the captions of a split, without those that have no word, such as "...", and images that have no other.

    A model that is trained on empty captions generates them. Raises TrainingError if nothing is left.
    """
    examples: list[Example] = []
    tokens: list[list[list[int]]] = []
    encoded = map_groups(tokenizer.encode_batch, [example.captions for example in captions])
    for example, some in zip(captions, encoded, strict=True):
        kept = [(caption, ids) for caption, ids in zip(example.captions, some, strict=True) if len(ids) > 2]
        if kept:
            whole = len(kept) == len(example.captions)
            examples.append(example if whole else replace(example, captions=tuple(caption for caption, _ in kept)))
            tokens.append([ids for _, ids in kept])
    if not examples:
        raise TrainingError(f"{captions.name}, split {captions.split}: no image has a caption; nothing to learn from")
    return EncodedCaptions(replace(captions, examples=tuple(examples)), tokens)


def join_encoded(parts: Sequence[EncodedCaptions]) -> EncodedCaptions:
    """Concatenate the splits of several datasets."""
    name = " + ".join(part.captions.name for part in parts)
    examples = tuple(chain.from_iterable(part.captions for part in parts))
    return EncodedCaptions(
        CaptionSet(name, parts[0].captions.split, examples), [some for part in parts for some in part.tokens]
    )
