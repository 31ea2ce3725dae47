"""What a caption that the model said by itself is worth: CIDEr-D against what people wrote, the end token inside."""

from __future__ import annotations

from collections.abc import Sequence

from captionkit.data.tokenizer import EOS, Text
from captionkit.metrics.bleu import Bleu
from captionkit.metrics.cider import CiderD
from captionkit.metrics.core import Floats
from captionkit.metrics.frequencies import DocumentFrequencies
from captionkit.metrics.tokens import TOKENIZERS, tokenizer_of


class CiderReward:
    """CIDEr-D, and on request BLEU-4, of captions of training images, by the images' place in the split.

    `references` are the captions of each image. Words are those that the metrics count, so that what is rewarded is
    what is measured; document frequencies are those of the references. The end is a token like any other: without it a
    caption that breaks off ("a dog in a") loses nothing, and the model soon says no others.
    """

    def __init__(self, references: Sequence[Sequence[str]], text: Text, bleu4: float) -> None:
        self._text, self._bleu4 = text, bleu4
        self._tokenize = TOKENIZERS[tokenizer_of(references)]
        flat = iter(self._tokenize(caption for some in references for caption in some))
        self._references = [[[*next(flat), EOS] for _ in some] for some in references]
        self._frequencies = DocumentFrequencies.of(self._references)

    def __call__(self, places: Sequence[int], captions: Sequence[Sequence[int]]) -> Floats:
        """The rewards [N] of `captions`, token ids that end with the end token unless cut, of images at `places`."""
        said = self._tokenize(self._text.decode(caption) for caption in captions)
        ends = ([EOS] if caption[-1:] == [self._text.eos_id] else [] for caption in map(list, captions))
        candidates = [[*words, *end] for words, end in zip(said, ends, strict=True)]
        references = [self._references[place] for place in places]
        cider = CiderD(self._frequencies)
        cider.update(candidates, references)
        rewards = cider.compute().per_image[:, 0]  # [N,1] -> [N]
        if self._bleu4:
            bleu = Bleu()
            bleu.update(candidates, references)
            rewards = rewards + self._bleu4 * bleu.compute().per_image[:, -1]  # [N,4] -> [N]
        return rewards


def advantages(rewards: Floats, baseline: str) -> Floats:
    """What each caption is worth beyond what was to be expected of its image: `rewards` [B,K] -> [B,K'].

    With "others", the mean reward of the image's other samples (Luo 2020, arXiv 2003.09971, equation 5), K' = K.
    With "greedy", that of the likeliest caption (Rennie et al. 2017, arXiv 1612.00563, equation 9), which comes first
    and is not itself a sample, K' = K - 1.
    """
    if baseline == "greedy":
        return rewards[:, 1:] - rewards[:, :1]
    others = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others
