"""Activation checkpointing (arXiv 1604.06174): recompute parts of the network in the backward pass to save memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from captionkit.models.captioning_model import CaptioningModel


def recompute(model: CaptioningModel) -> None:
    """Make the trained encoder stages and the decoder's blocks store only their inputs for the backward pass.

    Weights, gradients, dropout and norm statistics are the same as without it, and parameter names do not change.
    Any copy of the model (such as its moving average) must be made before this call.
    """
    encoder = model.encoder
    stages = [] if encoder.frozen else encoder.stages[encoder.trained_from :]
    for module in _callable((*stages, *model.decoder.blocks)):
        _recompute(module)


def _callable(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the modules, with each nn.ModuleList (which has no forward) replaced by its items."""
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
    """Redirect updates of the running statistics of norms to copies.

    Without this, the recomputation would update them a second time.
    """
    norms = [inner for inner in module.modules() if getattr(inner, "track_running_stats", False)]
    kept = [dict(norm._buffers) for norm in norms]
    try:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update({name: buffer.clone() for name, buffer in buffers.items() if buffer is not None})
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
