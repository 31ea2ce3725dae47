"""Cross-entropy with label smoothing, the doubly stochastic attention penalty, and REINFORCE for hard attention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captionkit.models.decoder import Decoded, HardAttentionStats, Padding
from captionkit.training.data.soft_targets import SoftLabels


class Reward(NamedTuple):
    """Terms of the hard attention objective (arXiv 1502.03044, section 4.1), as sums over words."""

    #: sum of -(log p(y | s, a) - b) log p(s | a), whose gradient is that of equation 12's second term
    surrogate: Tensor
    #: the entropy H of equation 12's third term, in nats
    entropy: Tensor
    #: sum of log p(y_t | s, a) over the words whose cell was sampled, and their number, to update the baseline b, [2]
    earned: Tensor


class Losses(NamedTuple):
    """Losses as sums, not means, so that micro-batches and processes add up exactly."""

    #: the objective to minimise, sum over words
    objective: Tensor
    #: plain cross-entropy in nats, sum over words
    nats: Tensor
    #: sum over captions of the mean over cells of (1 - summed attention)^2; equation 14 of arXiv 1502.03044
    coverage: Tensor
    #: only with hard attention
    reward: Reward | None = None


def losses(
    decoded: Decoded, targets: Tensor, label_smoothing: float, soft: SoftLabels | None = None, weight: float = 0.0
) -> Losses:
    """Compute the losses of `decoded` for the next words `targets` [P].

    With soft targets `soft`, their cross-entropy has the share `weight` of the objective.
    """
    log_probs = decoded.logits.float().log_softmax(-1)  # [P,V]
    chosen = log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)  # [P,V] -> [P,1] -> [P]
    nats = -chosen.sum()
    uniform = -log_probs.mean(-1).sum()  # [P,V] -> [P] -> []
    coverage = nats.new_zeros(())
    if decoded.coverage is not None:
        coverage = (1 - decoded.coverage).square().mean(-1).sum()  # [N,G] -> [N] -> []
    reward = None if decoded.glimpses is None else _reward(decoded.glimpses, chosen.detach())
    objective = (1 - label_smoothing) * nats + label_smoothing * uniform
    if soft is not None:
        expected = -(soft.shares * log_probs.gather(1, soft.ids)).sum()  # [P,V] -> [P,T] -> []
        objective = (1 - weight) * objective + weight * expected
    return Losses(objective, nats, coverage, reward)


def _reward(glimpses: HardAttentionStats, said: Tensor) -> Reward:
    """Compute the REINFORCE terms from the log-probabilities `said` [P] of the reference words.

    Differs from equation 12 in two ways that reduce the variance and keep the expectation. The words before y_t do not
    depend on s_t, so they are not part of its reward. And b is a mean over words instead of captions, because caption
    lengths differ; the authors batch captions of equal length.
    """
    padding = Padding(glimpses.sizes, said.device)
    better = padding.pad(said - glimpses.baseline)  # [P] -> [N,L]
    rest = padding.pack(better.flip(1).cumsum(1).flip(1))  # from each word to the caption's end, [N,L] -> [P]
    sampled = glimpses.sampled.to(said.dtype)
    surrogate = -(rest * glimpses.log_probs * sampled).sum()  # [P] -> []
    earned = torch.stack([(said * sampled).sum(), sampled.sum()])  # [2]
    return Reward(surrogate, glimpses.entropy.sum(), earned)
