"""Cross-entropy with label smoothing, the doubly stochastic attention penalty, and the decoder's own loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from captionkit.models.decoder import AuxiliaryLoss, Decoded
from captionkit.training.data.soft_targets import SoftLabels


class Losses(NamedTuple):
    """Losses as sums, not means, so that micro-batches and processes add up exactly."""

    #: the objective to minimise, sum over words
    objective: Tensor
    #: plain cross-entropy in nats, sum over words
    nats: Tensor
    #: sum over captions of the mean over cells of (1 - summed attention)^2; equation 14 of arXiv 1502.03044
    coverage: Tensor
    #: the decoder's own loss, if it has one
    auxiliary: AuxiliaryLoss | None = None


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
    auxiliary = None if decoded.auxiliary is None else decoded.auxiliary.loss(chosen.detach())
    objective = (1 - label_smoothing) * nats + label_smoothing * uniform
    if soft is not None:
        expected = -(soft.shares * log_probs.gather(1, soft.ids)).sum()  # [P,V] -> [P,T] -> []
        objective = (1 - weight) * objective + weight * expected
    return Losses(objective, nats, coverage, auxiliary)
