"""Parameter groups of the optimizer and their learning rate schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from captionkit.training.config.schema import OptimizerRecipe

if TYPE_CHECKING:
    from captionkit.models.captioning_model import CaptioningModel


def parameter_groups(model: CaptioningModel, recipe: OptimizerRecipe, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Return parameter groups with separate learning rates for encoder, decoder and concept head.

    Biases, norms and embeddings get no weight decay. Each encoder stage has `layer_decay` times the learning rate of
    the following stage: discriminative fine-tuning (Howard and Ruder 2018, arXiv 1801.06146, section 3.2).
    """
    shares = _stage_shares(model, layer_decay)
    rates_of = {
        "encoder": recipe.lr_encoder,
        "decoder": recipe.lr_decoder,
        "concepts": recipe.lr_concepts or recipe.lr_decoder,
    }
    groups: dict[tuple[str, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.partition(".")[0] if name.startswith(("encoder.", "concepts.")) else "decoder"
            base_lr = rates_of[part] * shares.get(parameter, 1.0)
            decayed = parameter.ndim > 1 and "embedding" not in name
            groups.setdefault((part, base_lr, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "name": part,
            "base_lr": base_lr,
            "lr": base_lr,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
        }
        for (part, base_lr, decayed), parameters in groups.items()
    ]


def _stage_shares(model: CaptioningModel, layer_decay: float) -> dict[nn.Parameter, float]:
    """Map each encoder parameter to its factor on the encoder's learning rate.

    Parameters outside of all stages get the factor of the first stage.
    """
    stages = model.encoder.stages
    shares = dict.fromkeys(model.encoder.parameters(), layer_decay ** (len(stages) - 1))
    for before_last, stage in enumerate(reversed(stages)):
        shares |= dict.fromkeys(stage.parameters(), layer_decay**before_last)
    return shares


def set_rates(optimizer: Optimizer, step: int, steps: int, recipe: OptimizerRecipe) -> None:
    """Set the learning rate of every group for `step` (from 0)."""
    # Warm-up is at most a fifth of the run, so that short runs also reach their full rates.
    factor = lr_multiplier(step, steps, min(recipe.warmup, math.ceil(steps / 5)), recipe.min_lr_ratio, recipe.schedule)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the current learning rates: {"lr_decoder": ..., "lr_encoder": ..., "lr_concepts": ...}.

    The encoder's is that of its last stage. A rate is missing where nothing of that part is trained.
    """
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        if any(parameter.requires_grad for parameter in group["params"]):
            name = f"lr_{group['name']}"
            found[name] = max(group["lr"], found.get(name, 0.0))
    return found


def lr_multiplier(step: int, steps: int, warmup: int, min_ratio: float, schedule: str = "cosine") -> float:
    """Return the factor on the base learning rates at `step` (from 0).

    Linear warm-up, then cosine or linear decay to `min_ratio`, or constant.
    """
    if step < warmup:
        return (step + 1) / warmup
    through = (step - warmup) / max(1, steps - warmup)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * through)), "linear": 1 - through, "constant": 1.0}[schedule]
    return min_ratio + (1 - min_ratio) * left
