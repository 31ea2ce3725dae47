"""The Muon optimizer, for the weight matrices of hidden layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_STEPS = 5


class Muon(Optimizer):
    """SGD with momentum and orthogonalized updates (Jordan, https://kellerjordan.github.io/posts/muon).

    Equivalent to torch's Muon with its defaults and `adjust_lr_fn="match_rms_adamw"` (Liu et al., arXiv 2502.16982,
    section 2.2), but orthogonalizes in `dtype` and does not support closures. torch's Muon always computes in
    bfloat16, which took eighty times as long as float32 on a CPU without bfloat16 instructions.
    """

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype) -> None:
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.1, "momentum": 0.95})
        self._dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Perform one optimization step."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group["lr"], group["weight_decay"], group["momentum"])

    def _update(self, matrix: Tensor, gradient: Tensor, lr: float, weight_decay: float, momentum: float) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = orthogonal(gradient.lerp(buffer, momentum).to(self._dtype))  # Nesterov momentum
        matrix.mul_(1 - lr * weight_decay)
        matrix.add_(update, alpha=-lr * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: Tensor) -> Tensor:
    """Orthogonalize `matrix` [M,N] -> [M,N] by a Newton-Schulz iteration.

    The singular vectors stay the same; the singular values become approximately 1.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix  # keeps the Gram matrix small
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        square = wide @ wide.T  # [M,N] @ [N,M] -> [M,M]
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
