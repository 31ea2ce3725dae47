"""Encoders: an image becomes a grid of feature vectors. What an encoder is, which there are, and how to add one.

To add an encoder, write a function `EncoderConfig -> Encoder` and put `@register("its-name")` on it.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from captionkit.data.images import Preprocessing
from captionkit.errors import ModelError


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, in full: enough to build it again without a network or a hub."""

    #: a registered name, the Hub id or local folder of a Hugging Face transformers vision backbone, or `timm:NAME` or
    #: `torchvision:NAME`
    name: str = "mobilenet-edgetpu"
    #: batch norm after each convolution of our own encoders; off for the published weights, which have it folded in
    batch_norm: bool = False
    #: the backbone's own transformers config, filled in when it is first loaded
    backbone: dict[str, Any] = field(default_factory=dict)
    #: the preprocessing that the weights of a backbone, or of another library's model, expect; filled in with them
    preprocessing: dict[str, Any] = field(default_factory=dict)


class Encoder(nn.Module, ABC):
    """Base of all encoders: `forward(images [B,3,H,W]) -> grid [B,G,D]`, cells in row-major order.

    `dim` is D; `stages` lists the parts from input to output, the unit of freezing. `idle` names the parameters of
    another library's `network` that the grid does not depend on.
    """

    dim: int
    idle: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.trained_from: int | None = 0
        #: whether batch norms keep their running statistics while trained, as DETR's FrozenBatchNorm2d does
        self.freeze_norms = False

    @property
    @abstractmethod
    def stages(self) -> list[nn.Module]:
        """The parts of the network in the order in which an image passes them."""

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the grid for an image of `height` x `width` pixels."""

    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """The preprocessing that the published weights expect."""

    def train_from(self, stage: int | None) -> None:
        """Train the stages from number `stage` on (negative counts from the end), or none of them for None.

        What is not trained is frozen whole: no gradients, no dropout, and norm statistics that stay as they are.
        """
        count = len(self.stages)
        if stage is not None and not -count <= stage < count:
            raise ModelError(f"the encoder has {count} stages; it cannot be trained from stage {stage}")
        self.trained_from = None if stage is None else stage % count
        for parameter in self.parameters():
            parameter.requires_grad_(self.trained_from == 0)
        for module in self.stages[self.trained_from :] if self.trained_from is not None else []:
            module.requires_grad_(True)
        for name, parameter in self.named_parameters():
            if name.removeprefix("network.") in self.idle:  # it would have no gradient
                parameter.requires_grad_(False)
        self.train(self.training)

    @property
    def frozen(self) -> bool:
        """Whether no part of the encoder is trained, so that its features can be computed once and kept."""
        return self.trained_from is None

    @property
    def cacheable(self) -> bool:
        """Whether `encode_frozen` and `encode_trained` split the encoder where its trained stages begin."""
        return self.frozen

    def encode_frozen(self, images: Tensor) -> Tensor:
        """What the frozen stages compute, which is the same in every epoch: `images` [B,3,H,W] -> grid [B,G,D].

        An encoder of which some stages are trained answers with the last frozen one's maps [B,H',W',C] instead.
        """
        return self(images)

    def encode_trained(self, maps: Tensor) -> Tensor:
        """What the trained stages make of the maps of `encode_frozen`: [B,H',W',C] -> grid [B,G,D]."""
        raise ModelError("this encoder cannot be split where its trained stages begin")

    def frozen_state(self) -> dict[str, Tensor]:
        """The parameters and buffers that `encode_frozen` depends on, by name."""
        return self.state_dict()

    def train(self, mode: bool = True) -> Encoder:
        """As `nn.Module.train`, but frozen stages, and batch norms where they are, stay in evaluation mode."""
        super().train(mode and self.trained_from == 0)
        self.training = mode
        for module in self.stages[self.trained_from :] if self.trained_from else []:
            module.train(mode)
        for module in self.modules() if self.freeze_norms else ():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


Builder = Callable[[EncoderConfig], Encoder]
_BUILDERS: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Make an encoder known by `name`."""

    def add(build: Builder) -> Builder:
        _BUILDERS[name] = build
        return build

    return add


@contextmanager
def without_values(network: nn.Module) -> Iterator[None]:
    """Tensors made inside have shapes and no values, so that `network`, or a twin of it, tells its outputs' shapes.

    Some networks keep tensors by size (BEiT its relative positions). Those made inside are dropped, or they would be
    met where values are wanted; and so are those from before, which may be of `torch.inference_mode`.
    """
    _drop_caches(network)
    try:
        with torch.device("meta"):
            yield
    finally:
        _drop_caches(network)


_Cache = type(lru_cache(int))


def _drop_caches(network: nn.Module) -> None:
    classes = {kind for module in network.modules() for kind in type(module).__mro__}
    for owner in classes | {sys.modules[kind.__module__] for kind in classes}:
        for member in vars(owner).values():
            function = member.__func__ if isinstance(member, staticmethod) else member
            # transformers wraps what it caches in a function that calls the cache.
            inner = inspect.getclosurevars(function).nonlocals.values() if inspect.isfunction(function) else ()
            for cache in (function, *inner):
                if isinstance(cache, _Cache):
                    cache.cache_clear()
