"""Hard attention in training: one sampled cell per word (Xu et al. 2015, arXiv 1502.03044, section 4.1).

The location s_t is sampled from Multinoulli(alpha_t) (equation 8) and the context is that cell alone, z_t = a_{s_t}
(equation 9). With probability 0.5 a caption is trained on the expected context instead, z_t = sum_i alpha_ti a_i,
through which the gradient reaches alpha directly. `captionkit.training.objectives.losses` computes the learning rule
(equations 11 and 12) from the quantities recorded here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from captionkit.models.decoder import HardAttentionStats

#: share of the captions that are trained on the expected context
EXPECTED = 0.5


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

    def look(self, attention: Tensor) -> Tensor:
        """Return the weights to apply, for the captions with another word: `attention` [n,1,G] -> [n,1,G].

        They are one-hot for captions with sampled locations, and the attention itself for the others.
        """
        log = attention.clamp_min(torch.finfo(attention.dtype).tiny).log()
        cells = draw_cells(attention.detach())  # [n,1,G] -> [n,1]
        self._log_probs.append(log.gather(-1, cells.unsqueeze(-1)).flatten())  # [n,1,G] -> [n,1,1] -> [n]
        self._entropy.append(-(attention * log).sum(-1).flatten())  # [n,1,G] -> [n,1] -> [n]
        seen = functional.one_hot(cells, attention.shape[-1]).to(attention.dtype)  # [n,1] -> [n,1,G]
        return torch.where(self._sampled[: len(attention), None, None], seen, attention)

    def glimpses(self) -> HardAttentionStats:
        """Return the recorded quantities, packed like the words."""
        sizes = [len(step) for step in self._log_probs]
        sampled = torch.cat([self._sampled[:n] for n in sizes])  # [P]
        return HardAttentionStats(
            torch.cat(self._log_probs), torch.cat(self._entropy), sampled, self._baseline.clone(), sizes
        )
