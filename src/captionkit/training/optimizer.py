"""The groups of parameters that an optimizer trains, and their learning rates."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer

from captionkit.training.recipe import OptimizerRecipe


def parameter_groups(model: nn.Module, recipe: OptimizerRecipe) -> list[dict[str, Any]]:
    """A rate for the encoder and one for the decoder, and no decay on biases, norms and embeddings."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "encoder" if name.startswith("encoder.") else "decoder"
            decayed = parameter.ndim > 1 and "embedding" not in name
            groups.setdefault((part, decayed), []).append(parameter)
    peaks = {"encoder": recipe.lr_encoder, "decoder": recipe.lr_decoder}
    return [
        {
            "params": parameters,
            "name": part,
            "peak": peaks[part],
            "lr": peaks[part],
            "weight_decay": recipe.weight_decay if decayed else 0.0,
        }
        for (part, decayed), parameters in groups.items()
    ]


def set_rates(optimizer: Optimizer, step: int, steps: int, recipe: OptimizerRecipe) -> None:
    """Give every group its learning rate of `step` (from 0)."""
    factor = rate_factor(step, steps, recipe.warmup, recipe.floor, recipe.schedule)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def rates(optimizer: Optimizer) -> dict[str, float]:
    """The learning rates as they are: {"lr_decoder": ..., "lr_encoder": ...}, without the encoder's if it is frozen."""
    return {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups}


def rate_factor(step: int, steps: int, warmup: int, floor: float, schedule: str = "cosine") -> float:
    """The learning rate's share at a step (from 0): linear warm-up, then a cosine or a line to `floor`, or constant."""
    if step < warmup:
        return (step + 1) / warmup
    through = (step - warmup) / max(1, steps - warmup)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * through)), "linear": 1 - through, "constant": 1.0}[schedule]
    return floor + (1 - floor) * left
