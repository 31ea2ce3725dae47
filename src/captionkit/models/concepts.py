"""The concept head: which words people would use of an image, predicted from its features without any word order.

Word detectors of this kind come from Fang et al. 2015 (arXiv 1411.4952, section 3), and Wu et al. 2016 (arXiv
1506.01144) feed them to a captioner. Here a word's evidence is added to the decoder's logits with a small weight: a
decoder led by its own sentence then drifts less to what is likely but not in the image. The evidence of a caption's
words also tells how well it fits the image (`captionkit.inference.caption_confidence`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captionkit.models.decoder import PackedCaptions, Padding

#: limit on the evidence added to the logits, in nats, so that no word is forced or ruled out
_LARGEST = 4.0
#: base rates are kept this far from 0 and 1, where their log-odds would be infinite
_RAREST = 1e-5
#: log-odds from which a word counts as never or always used
_CERTAIN = 11.0


class ConceptHead(nn.Module):
    """Predict, for each word of the vocabulary, the log-odds that a caption of the image uses it."""

    #: log-odds of each word in a caption of any image, [V]
    base: Tensor

    def __init__(self, memory: int, hidden: int, vocabulary: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(2 * memory, hidden)
        self.output = nn.Linear(hidden, vocabulary)
        self.register_buffer("base", torch.zeros(vocabulary))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def set_base_rates(self, shares: Sequence[float]) -> None:
        """Set the share of captions [V] that use each word; the head then learns what an image adds to it."""
        self.base.copy_(_log_odds(shares))

    @torch.no_grad()
    def extend(self, shares: Sequence[float]) -> None:
        """Add words that `shares` of the captions use; there is no evidence for them until they are trained."""
        old, new = self.output, len(shares)
        self.output = nn.Linear(old.in_features, old.out_features + new).to(old.weight)
        for part, values in ((self.output.weight, old.weight), (self.output.bias, old.bias)):
            part.copy_(torch.cat([values, values.new_zeros(new, *values.shape[1:])]))  # [V,...] -> [V+N,...]
        self.base = torch.cat([self.base, _log_odds(shares).to(self.base)])  # [V] -> [V+N]

    def forward(self, memory: Tensor) -> Tensor:
        """Compute the evidence of the memory [B,G,D] for each word, log-odds less those of the base rate, [B,V]."""
        pooled = torch.cat([memory.mean(1), memory.amax(1)], dim=-1)  # [B,G,D] -> [B,2D]
        return self.output(self.dropout(self.hidden(self.dropout(pooled)).relu()))  # [B,2D] -> [B,V]

    def loss(self, evidence: Tensor, captions: PackedCaptions, targets: Tensor) -> Tensor:
        """Return the cross-entropy with the words `targets` [P] of the images' captions, summed over words and images.

        A word's target is the share of the image's captions that use it.
        """
        caption = Padding(captions.sizes, targets.device).caption  # [P]
        used = evidence.new_zeros(len(captions.image_index), evidence.shape[1])  # [N,V]
        used[caption, targets] = 1
        images = evidence.new_zeros(
            len(evidence), 1 + evidence.shape[1]
        )  # [B,1+V]: number of captions, then of each word
        counted = torch.cat([torch.ones_like(used[:, :1]), used], dim=1)  # [N,V] -> [N,1+V]
        images = images.index_add(0, captions.image_index, counted)
        shares = images[:, 1:] / images[:, :1].clamp(min=1)  # [B,V]
        apart = nn.functional.binary_cross_entropy_with_logits(self.base + evidence, shares, reduction="none")  # [B,V]
        # Words of every caption or of none, <eos> among them, have nothing to learn; their tiny gradients would grow
        # to whole steps in optimizers that normalise them.
        return (apart * (self.base.abs() < _CERTAIN)).sum()


def _log_odds(shares: Sequence[float]) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64).clamp(_RAREST, 1 - _RAREST).logit()


def add_evidence(logits: Tensor, evidence: Tensor, weight: float) -> Tensor:
    """Add the evidence, limited, to the logits that it is broadcast to."""
    return logits + weight * evidence.clamp(-_LARGEST, _LARGEST)
