"""The optimizers that a recipe can select.

All take the parameter groups of `schedule.parameter_groups` and keep their state per parameter, which is the form that
checkpoints store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from captionkit.errors import RecipeError
from captionkit.training.config.schema import OptimizerRecipe
from captionkit.training.engine.precision import computes_in_bf16
from captionkit.training.optim.muon import Muon
from captionkit.training.optim.schedule import parameter_groups

if TYPE_CHECKING:
    from captionkit.models.captioning_model import CaptioningModel

Groups = list[dict[str, Any]]

#: betas of AdamW, as in Vaswani et al. (arXiv 1706.03762)
_BETAS = (0.9, 0.98)
_MOMENTUM = 0.9
#: optimizers missing from older torch versions: class name and first version that has it
_SINCE = {"adafactor": ("Adafactor", "2.5")}


def check_optimizer(name: str) -> None:
    """Raise RecipeError if the optimizer is not available in this environment."""
    if name in _SINCE and not hasattr(torch.optim, _SINCE[name][0]):
        version = f"needs torch {_SINCE[name][1]} or later, and this is {torch.__version__}"
        raise RecipeError(f"optimizer.name = {name!r}: {version}; take 'adamw', or a newer torch")


def make_optimizer(model: CaptioningModel, recipe: OptimizerRecipe, layer_decay: float = 1.0) -> Optimizer:
    """Build the recipe's optimizer over the trainable parameters of `model`; see `parameter_groups`.

    adamw: Loshchilov and Hutter, arXiv 1711.05101; sgd: with Nesterov momentum
    0.9; adafactor: Shazeer and Stern, arXiv 1804.04235; lion: Chen et al., arXiv 2302.06675; muon: see `Muon`, with
    AdamW for every parameter that is not a hidden-layer matrix.

    Raises:
        RecipeError: the optimizer is not available in this environment.
    """
    check_optimizer(recipe.name)
    groups = parameter_groups(model, recipe, layer_decay)
    return MuonWithAdamW(groups, hidden_matrices(model)) if recipe.name == "muon" else _MAKE[recipe.name](groups)


def _adafactor(groups: Groups) -> Optimizer:
    return torch.optim.Adafactor(groups)


def _lion(groups: Groups) -> Optimizer:
    from lion_pytorch import Lion

    return Lion(groups, betas=(0.9, 0.99))


_MAKE: dict[str, Callable[[Groups], Optimizer]] = {
    "adamw": lambda groups: AdamW(groups, betas=_BETAS),
    "sgd": lambda groups: SGD(groups, momentum=_MOMENTUM, nesterov=True),
    "adafactor": _adafactor,
    "lion": _lion,
}


def hidden_matrices(model: nn.Module) -> set[nn.Parameter]:
    """Return the hidden-layer weight matrices [out,in].

    Embeddings, the output (vocabulary) layer and matrices with a single row or column are excluded.
    """
    return {
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2
        and min(parameter.shape) > 1
        and "embedding" not in name
        and name not in ("decoder.output.weight", "concepts.output.weight")
    }


class MuonWithAdamW(Optimizer):
    """Muon for `matrices` and AdamW for all other parameters, as one optimizer with a shared state and group list.

    Muon's updates are scaled to the RMS of AdamW's, so one learning rate works for both.
    """

    def __init__(self, groups: Groups, matrices: set[nn.Parameter]) -> None:
        muon, rest = (_chosen(groups, matrices, inside) for inside in (True, False))
        self._parts: list[Optimizer] = []
        if muon:
            self._parts.append(Muon(muon, torch.bfloat16 if computes_in_bf16() else torch.float32))
        if rest:
            self._parts.append(AdamW(rest, betas=_BETAS))
        super().__init__(
            [{**group, "part": i} for i, part in enumerate(self._parts) for group in part.param_groups], {}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one optimization step.

        Both parts are given this object's groups and state first, which may have been loaded since the last step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, part in enumerate(self._parts):
            part.param_groups = [group for group in self.param_groups if group["part"] == number]
            part.state = self.state
            part.step()
        return loss


def _chosen(groups: Groups, matrices: set[nn.Parameter], inside: bool) -> Groups:
    """Restrict each group to its parameters in `matrices` (`inside`) or not in it; drop groups left empty."""
    chosen = ({**group, "params": [p for p in group["params"] if (p in matrices) is inside]} for group in groups)
    return [group for group in chosen if group["params"]]
