"""Decoding for any step-wise decoder: beam search (also diverse, or with forced words) and sampling, in numpy.

Sizes: B images, K hypotheses of an image at a step, T ranked tokens of a hypothesis, G grid cells, N captions of an
    image, L words in a caption.
"""

from __future__ import annotations

from captionkit.data.special_tokens import SpecialTokens
from captionkit.errors import CaptionkitError
from captionkit.inference.search.beam import beam_search
from captionkit.inference.search.constraints import Constraints
from captionkit.inference.search.generation_config import RENAMED, Decoding, present_names
from captionkit.inference.search.hypothesis import Hypothesis
from captionkit.inference.search.sampling import sample
from captionkit.inference.search.single_image import search_alone, suits
from captionkit.inference.search.stepper import CONCEPTS, Begun, Capability, Overview, SearchRequest, State, Stepper
from captionkit.inference.search.transformers_beam import transformers_beam_search

__all__ = [
    "CONCEPTS",
    "RENAMED",
    "Begun",
    "Capability",
    "Constraints",
    "Decoding",
    "Hypothesis",
    "Overview",
    "State",
    "Stepper",
    "present_names",
    "search",
]


def search(
    stepper: Stepper,
    begun: Begun,
    decoding: Decoding,
    special: SpecialTokens,
    *,
    constraints: Constraints | None = None,
) -> list[list[Hypothesis]]:
    """Caption encoded images; return at most `num_captions` hypotheses per image, best first, unfinished ones last.

    See `beam_search`, `transformers_beam_search` and `sample`; for one image, `search_alone` returns the same as the
    first, faster. Every result satisfies `constraints`. They are token ids, so a `decoding` with words as text must
    come with constraints (made by `word_constraints.constraints_of`), else CaptionkitError.

    Tokens of probability zero (-inf, or NaN from a broken model) are never generated. If that or the constraints leave
    fewer than `num_captions` hypotheses, fewer are returned: none if no caption is possible.
    """
    if constraints is None and decoding.has_text:
        raise CaptionkitError(
            "the decoding names words, but no constraints are given; use captionkit.inference.word_constraints"
        )
    if constraints and len(constraints.prefix) > decoding.max_length:
        raise CaptionkitError(
            f"prefix has {len(constraints.prefix)} tokens, but max_length is {decoding.max_length}; raise max_length"
        )
    if not len(begun.images):
        return []
    asked = SearchRequest(stepper, begun, decoding, constraints or Constraints(), special)
    if decoding.temperature:
        return sample(asked)
    if decoding.early_stopping != "exact" and decoding.num_beam_groups == 1 and not asked.constraints.words:
        return transformers_beam_search(asked)
    return search_alone(asked) if suits(asked) else beam_search(asked)
