"""Parameter groups of the optimizer and their learning rate schedules."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer

from captionkit.training.config.schema import OptimizerRecipe


def parameter_groups(model: nn.Module, recipe: OptimizerRecipe, stage_decay: float = 1.0) -> list[dict[str, Any]]:
    """Return parameter groups with separate learning rates for encoder and decoder.

    Biases, norms and embeddings get no weight decay. Each encoder stage has `stage_decay` times the learning rate of
    the following stage: discriminative fine-tuning (Howard and Ruder 2018, arXiv 1801.06146, section 3.2).
    """
    shares = _stage_shares(model, stage_decay)
    groups: dict[tuple[str, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "encoder" if name.startswith("encoder.") else "decoder"
            peak = recipe.lr_encoder * shares[parameter] if part == "encoder" else recipe.lr_decoder
            decayed = parameter.ndim > 1 and "embedding" not in name
            groups.setdefault((part, peak, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "name": part,
            "peak": peak,
            "lr": peak,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
        }
        for (part, peak, decayed), parameters in groups.items()
    ]


def _stage_shares(model: nn.Module, stage_decay: float) -> dict[nn.Parameter, float]:
    """Map each encoder parameter to its factor on the encoder's learning rate.

    Parameters outside of all stages get the factor of the first stage.
    """
    stages = model.encoder.stages
    shares = dict.fromkeys(model.encoder.parameters(), stage_decay ** (len(stages) - 1))
    for before_last, stage in enumerate(reversed(stages)):
        shares |= dict.fromkeys(stage.parameters(), stage_decay**before_last)
    return shares


def set_rates(optimizer: Optimizer, step: int, steps: int, recipe: OptimizerRecipe) -> None:
    """Set the learning rate of every group for `step` (from 0)."""
    # Warm-up is at most a fifth of the run, so that short runs also train at the peak rates.
    factor = rate_factor(step, steps, min(recipe.warmup, math.ceil(steps / 5)), recipe.floor, recipe.schedule)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the current learning rates: {"lr_decoder": ..., "lr_encoder": ...}.

    The encoder's is that of its last stage; it is missing while the encoder is frozen.
    """
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        if any(parameter.requires_grad for parameter in group["params"]):
            name = f"lr_{group['name']}"
            found[name] = max(group["lr"], found.get(name, 0.0))
    return found


def rate_factor(step: int, steps: int, warmup: int, floor: float, schedule: str = "cosine") -> float:
    """Return the factor on the peak learning rate at `step` (from 0).

    Linear warm-up, then cosine or linear decay to `floor`, or constant.
    """
    if step < warmup:
        return (step + 1) / warmup
    through = (step - warmup) / max(1, steps - warmup)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * through)), "linear": 1 - through, "constant": 1.0}[schedule]
    return floor + (1 - floor) * left
