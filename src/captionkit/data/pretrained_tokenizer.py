"""The tokenizer of a model that was published elsewhere: any `tokenizer.json`, with the special tokens of its model."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from captionkit.data.special_tokens import SpecialTokens
from captionkit.data.tokenizer import Tokenizer

_NONE = -1


class PretrainedTokenizer(Tokenizer):
    """A tokenizer whose vocabulary has words, word pieces or byte pairs of any kind.

    Which tokens begin and end captions is no property of the vocabulary but of the model, and comes with it.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, special: SpecialTokens, *, begins_with_space: bool = False
    ) -> None:
        """`begins_with_space`: captions follow a text, so that their first word is spelt as one within a text."""
        self.backend, self.special, self._begins_with_space = backend, special, begins_with_space
        backend.no_truncation()
        backend.no_padding()
        self.bos_id, self.eos_id, self.never_generated = special.start[0], special.end, special.banned
        unknown = getattr(backend.model, "unk_token", None)
        found = backend.token_to_id(unknown) if unknown else None
        # Byte-level vocabularies name an unknown token that they never need.
        self.unk_id = _NONE if found is None else found
        self.pad_id = special.end
        vocabulary = backend.get_vocab()
        self._tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        self._byte_level = True  # so that words are distinguished by the text that their tokens decode to
        added = backend.get_added_tokens_decoder().items()
        self._hidden = {token_id for token_id, token in added if token.special} | {special.end}

    def encode(self, caption: str) -> list[int]:
        """Return the token ids of a caption, from the start tokens to the end token."""
        return [*self.special.start, *self.encode_phrase(caption, first=True)[0], self.special.end]

    def encode_batch(self, captions: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each caption."""
        return [self.encode(caption) for caption in captions]

    def encode_phrase(self, phrase: str, *, first: bool) -> tuple[list[int], list[str]]:
        """Return the ids of a part of a caption, and its words that the vocabulary lacks.

        Byte-level vocabularies spell a word otherwise where it does not begin the text (`first`).
        """
        begins = first and not self._begins_with_space
        return super().encode_phrase(phrase.strip() if begins else f" {phrase.strip()}", first=begins)

    def _spell(self, shown: Sequence[int]) -> str:
        return " ".join(self.backend.decode(list(shown), skip_special_tokens=True).split())

    def _shown(self, ids: Sequence[int]) -> list[int]:
        return [position for position, token in enumerate(ids) if token not in self._hidden]
