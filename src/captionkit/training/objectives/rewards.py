"""Rewards of sampled captions: CIDEr-D against the references, with the end token counted as a word."""

from __future__ import annotations

from collections.abc import Sequence

from captionkit.data.tokenizer import EOS, Tokenizer
from captionkit.metrics.bleu import Bleu
from captionkit.metrics.cider import CiderD
from captionkit.metrics.document_frequencies import DocumentFrequencies
from captionkit.metrics.metric import Floats
from captionkit.metrics.tokens import TOKENIZERS, tokenizer_of
from captionkit.utils.grouping import map_groups


class CiderReward:
    """CIDEr-D, and optionally BLEU-4, of captions of training images, addressed by their index in the split.

    `references` are the captions of each image. Captions are tokenized as in the metrics, so that the reward is what
    evaluation measures; document frequencies are those of the references. The end token counts as a word: otherwise
    captions that break off ("a dog in a") are not penalized, and the model soon generates nothing else.
    """

    def __init__(self, references: Sequence[Sequence[str]], tokenizer: Tokenizer, bleu4: float) -> None:
        self._tokenizer, self._bleu4 = tokenizer, bleu4
        self._tokenize = TOKENIZERS[tokenizer_of(references)]
        tokenized = map_groups(self._tokenize, references)
        self._references = [[[*words, EOS] for words in some] for some in tokenized]
        self._frequencies = DocumentFrequencies.of(self._references)

    def __call__(self, places: Sequence[int], captions: Sequence[Sequence[int]]) -> Floats:
        """Return the rewards [N] of `captions` of the images at `places`.

        Captions are token ids that end with the end token unless they were cut.
        """
        said = self._tokenize(self._tokenizer.decode(caption) for caption in captions)
        ends = ([EOS] if caption[-1:] == [self._tokenizer.eos_id] else [] for caption in map(list, captions))
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
    """Subtract the baseline of each image from the rewards of its captions: `rewards` [B,K] -> advantages [B,K'].

    "others": the baseline is the mean reward of the image's other samples (Luo 2020, arXiv 2003.09971, equation 5),
    K' = K. "greedy": it is the reward of the greedy caption (Rennie et al. 2017, arXiv 1612.00563, equation 9), which
    comes first and is not itself a sample, K' = K - 1.
    """
    if baseline == "greedy":
        return rewards[:, 1:] - rewards[:, :1]
    others = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others
