"""Hard attention in training: one sampled cell per word (Xu et al. 2015, arXiv 1502.03044, section 4.1).

The location s_t is sampled from Multinoulli(alpha_t) (equation 8) and the context is that cell alone, z_t = a_{s_t}
(equation 9). With probability 0.5 a caption is trained on the expected context instead, z_t = sum_i alpha_ti a_i,
through which the gradient reaches alpha directly. `HardAttentionStats.loss` is the learning rule (equations 11 and 12).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from captionkit.models.decoder import AuxiliaryLoss, Padding

#: share of the captions that are trained on the expected context
EXPECTED = 0.5
#: decay of the baseline: b_k = 0.9 b_{k-1} + 0.1 log p(y | s_k, a)
DECAY = 0.9


class HardAttentionStats(NamedTuple):
    """The cells sampled for P words, and what they are rewarded by."""

    #: log p(s_t | s_<t, a) of the cell sampled for each word, [P]
    log_probs: Tensor
    #: entropy of the distribution that it was sampled from, in nats, [P]
    entropy: Tensor
    #: whether a word's cell was sampled; otherwise the expected value was used, [P]
    sampled: Tensor
    #: the moving average b of log p(y_t | s, a) before this step, []
    baseline: Tensor
    #: number of captions that have a first, a second, ... word, as in `PackedCaptions`
    sizes: list[int]

    def loss(self, log_probs: Tensor) -> AuxiliaryLoss:
        """Compute the REINFORCE terms from the log-probabilities [P] of the reference words.

        "reward": the sum of -(log p(y | s, a) - b) log p(s | a), whose gradient is that of equation 12's second term.
        "entropy": minus the entropy H of its third term, in nats. The statistics are the sum of log p(y_t | s, a) over
        the words whose cell was sampled, and their number, [2].

        Differs from equation 12 in two ways that reduce the variance and keep the expectation. The words before y_t do
        not depend on s_t, so they are not part of its reward. And b is a mean over words instead of captions, because
        caption lengths differ; the authors batch captions of equal length.
        """
        padding = Padding(self.sizes, log_probs.device)
        better = padding.pad(log_probs - self.baseline)  # [P] -> [N,L]
        rest = padding.pack(better.flip(1).cumsum(1).flip(1))  # from each word to the caption's end, [N,L] -> [P]
        sampled = self.sampled.to(log_probs.dtype)
        reward = -(rest * self.log_probs * sampled).sum()  # [P] -> []
        statistics = torch.stack([(log_probs * sampled).sum(), sampled.sum()])  # [2]
        return AuxiliaryLoss({"reward": reward, "entropy": -self.entropy.sum()}, statistics)


def draw_cells(attention: Tensor) -> Tensor:
    """Sample one cell from each distribution: `attention` [...,G] -> cell indices [...]."""
    # An exponential race with these rates. Unlike torch.multinomial it accepts NaN, which then shows up in the loss.
    return (attention / torch.empty_like(attention).exponential_()).argmax(-1)


class Sampler:
    """Samples the cells for a batch of captions, word by word, and records what the loss needs."""

    def __init__(self, captions: int, baseline: Tensor) -> None:
        self._baseline = baseline
        self._sampled = torch.rand(captions, device=baseline.device) >= EXPECTED  # [N]
        self._log_probs: list[Tensor] = []
        self._entropy: list[Tensor] = []

    def sample(self, attention: Tensor) -> Tensor:
        """Return the weights to apply, for the captions with another word: `attention` [n,1,G] -> [n,1,G].

        They are one-hot for captions with sampled locations, and the attention itself for the others.
        """
        log = attention.clamp_min(torch.finfo(attention.dtype).tiny).log()
        cells = draw_cells(attention.detach())  # [n,1,G] -> [n,1]
        self._log_probs.append(log.gather(-1, cells.unsqueeze(-1)).flatten())  # [n,1,G] -> [n,1,1] -> [n]
        self._entropy.append(-(attention * log).sum(-1).flatten())  # [n,1,G] -> [n,1] -> [n]
        seen = functional.one_hot(cells, attention.shape[-1]).to(attention.dtype)  # [n,1] -> [n,1,G]
        return torch.where(self._sampled[: len(attention), None, None], seen, attention)

    def stats(self) -> HardAttentionStats:
        """Return the recorded quantities, packed like the words."""
        sizes = [len(step) for step in self._log_probs]
        sampled = torch.cat([self._sampled[:n] for n in sizes])  # [P]
        return HardAttentionStats(
            torch.cat(self._log_probs), torch.cat(self._entropy), sampled, self._baseline.clone(), sizes
        )
