"""Cross-entropy with label smoothing, and the doubly stochastic attention penalty."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from captionkit.models.show_attend_tell import Decoded


class Losses(NamedTuple):
    """Sums, not means, so that parts of a batch and processes add up exactly."""

    #: what is minimised, sum over words
    objective: Tensor
    #: plain cross-entropy in nats, sum over words
    nats: Tensor
    #: sum over captions of the mean over cells of (1 - summed attention)^2; equation 14 of arXiv 1502.03044
    coverage: Tensor


def losses(decoded: Decoded, targets: Tensor, label_smoothing: float) -> Losses:
    """`decoded` against the words that came next, `targets` [P]."""
    log_probs = decoded.logits.float().log_softmax(-1)  # [P,V]
    nats = -log_probs.gather(1, targets.unsqueeze(1)).sum()  # [P,V] -> [P,1] -> []
    uniform = -log_probs.mean(-1).sum()  # [P,V] -> [P] -> []
    coverage = (1 - decoded.coverage).square().mean(-1).sum()  # [N,G] -> [N] -> []
    return Losses((1 - label_smoothing) * nats + label_smoothing * uniform, nats, coverage)
