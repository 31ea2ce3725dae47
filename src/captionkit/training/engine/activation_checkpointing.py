"""Less memory for more time: parts of the network are computed again in the backward pass (arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from captionkit.models.captioning_model import CaptioningModel


def recompute(model: CaptioningModel) -> None:
    """Let the trained stages of the encoder, and the decoder's blocks, keep nothing but what goes into them.

    Weights, gradients, dropout and norm statistics stay what they would be. The names of weights stay, and a copy of
    the model has to be made before.
    """
    encoder = model.encoder
    stages = [] if encoder.frozen else encoder.stages[encoder.trained_from :]
    for module in _callable((*stages, *model.decoder.blocks)):
        _recompute(module)


def _callable(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The modules, those that are but lists taken apart."""
    for module in modules:
        if isinstance(module, nn.ModuleList):
            yield from _callable(module)
        else:
            yield module


def _recompute(module: nn.Module) -> None:
    compute = module.forward

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _without_statistics(module)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return compute(*args, **kwargs)
        return checkpoint(compute, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    module.forward = forward


@contextmanager
def _without_statistics(module: nn.Module) -> Iterator[None]:
    """What norms inside learn of their input meanwhile goes into copies: they have learnt it already."""
    norms = [inner for inner in module.modules() if getattr(inner, "track_running_stats", False)]
    kept = [dict(norm._buffers) for norm in norms]
    try:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update({name: buffer.clone() for name, buffer in buffers.items() if buffer is not None})
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
