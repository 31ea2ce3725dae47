"""A moving average of the weights: what is evaluated and kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of `model`, whose decay rises to `decay` so that the start is soon forgotten."""

    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        steps = float(count)
        torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + steps) / (10 + steps)))

    average = AveragedModel(model, multi_avg_fn=update)
    average.requires_grad_(False)
    return average.eval()
