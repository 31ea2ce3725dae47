"""The tokenizers of the caption metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice

from captionkit.data.tokenizer import has_cjk, split_words
from captionkit.metrics import ptb

PTB = "ptb"
_LOOKED_AT = 1000  # captions used to detect the language

#: "ptb" is coco-caption's; "words" splits any language, with Chinese and Japanese as characters (see data.tokenizer)
TOKENIZERS: dict[str, Callable[[Iterable[str]], list[list[str]]]] = {PTB: ptb.tokenize_all, "words": split_words}


def tokenizer_of(references: Iterable[Sequence[str]]) -> str:
    """Return the tokenizer that suits the references: "ptb", unless most are in Chinese or Japanese.

    PTB does not split these.
    """
    seen = list(islice(chain.from_iterable(references), _LOOKED_AT))
    return "words" if sum(map(has_cjk, seen)) * 2 > len(seen) else PTB
