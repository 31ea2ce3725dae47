"""Exponential moving average (EMA) of the weights, which is what is evaluated and saved."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of `model`.

    The decay warms up to `decay`, so that the initial weights lose their influence quickly. Frozen parameters share
    memory with `model`, and buffers (norm statistics) are copied from it.
    """

    @torch.no_grad()
    def update(averages: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        steps = float(count)
        moving = [pair for pair in zip(averages, current, strict=True) if pair[0].data_ptr() != pair[1].data_ptr()]
        if moving:
            weight = 1 - min(decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_([own for own, _ in moving], [new for _, new in moving], weight)

    average = AveragedModel(model, multi_avg_fn=update)
    average.requires_grad_(False)
    for own, shared in zip(average.module.parameters(), model.parameters(), strict=True):
        if not shared.requires_grad:
            own.data = shared.data
    return average.eval()
