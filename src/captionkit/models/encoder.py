"""Encoders, from image to a grid of feature vectors: the base class and the config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from captionkit.data.images import Preprocessing
from captionkit.errors import ModelError


@dataclass(frozen=True)
class EncoderConfig:
    """The full description of an encoder, sufficient to rebuild it offline."""

    #: a registered name, the Hub id or local folder of a Hugging Face transformers vision backbone,
    #: or `timm:NAME`
    name: str = "mobilenet-edgetpu"
    #: batch norm after each convolution of the built-in encoders; off for published weights, which have it folded in
    batch_norm: bool = False
    #: the backbone's transformers config, filled in when it is first loaded
    backbone: dict[str, Any] = field(default_factory=dict)
    #: the preprocessing that a transformers or timm model expects; filled in when it is first loaded
    preprocessing: dict[str, Any] = field(default_factory=dict)


class Encoder(nn.Module, ABC):
    """Base class of encoders: `forward(images [B,3,H,W]) -> grid [B,G,D]`, cells in row-major order.

    `dim` is D; `stages` lists the parts from input to output, the unit of freezing. `unused_parameters` names the
    parameters of a wrapped library `network` that the grid does not depend on.
    """

    dim: int
    unused_parameters: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.trained_from: int | None = 0
        #: whether trained batch norms use fixed running statistics, like DETR's FrozenBatchNorm2d
        self.freeze_norms = False

    @property
    @abstractmethod
    def stages(self) -> list[nn.Module]:
        """The parts of the network, in the order of the forward pass."""

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the grid for an image of `height` x `width` pixels."""

    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that the published weights expect."""

    def train_from(self, stage: int | None) -> None:
        """Unfreeze the stages from index `stage` on (negative: from the end), freeze the rest; None freezes all.

        Frozen stages get no gradients, apply no dropout and keep their norm statistics. Raises ModelError for an index
        out of range.
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
            if name.removeprefix("network.") in self.unused_parameters:  # it would get no gradient
                parameter.requires_grad_(False)
        self.train(self.training)

    @property
    def frozen(self) -> bool:
        """Whether the whole encoder is frozen, so that its features can be computed once and cached."""
        return self.trained_from is None

    @property
    def cacheable(self) -> bool:
        """Whether `encode_frozen` and `encode_trained` split the encoder at its first trained stage."""
        return self.frozen

    def encode_frozen(self, images: Tensor) -> Tensor:
        """Run the frozen stages, whose output is the same in every epoch: `images` [B,3,H,W] -> grid [B,G,D].

        If some stages are trained, return the feature maps [B,H',W',C] of the last frozen stage instead.
        """
        return self(images)

    def encode_trained(self, maps: Tensor) -> Tensor:
        """Run the trained stages on the feature maps of `encode_frozen`: [B,H',W',C] -> grid [B,G,D].

        Raises ModelError if the encoder cannot be split.
        """
        raise ModelError("this encoder cannot be split where its trained stages begin")

    def frozen_state(self) -> dict[str, Tensor]:
        """Return the parameters and buffers that `encode_frozen` depends on, by name."""
        return self.state_dict()

    def train(self, mode: bool = True) -> Encoder:
        """Set the mode as `nn.Module.train` does, but keep frozen stages and frozen batch norms in evaluation mode."""
        super().train(mode and self.trained_from == 0)
        self.training = mode
        for module in self.stages[self.trained_from :] if self.trained_from else []:
            module.train(mode)
        for module in self.modules() if self.freeze_norms else ():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put all modules of `network` into evaluation mode inside the context, and back into their own after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


Builder = Callable[[EncoderConfig], Encoder]
#: builders of encoders by name
BUILDERS: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Register the decorated builder as encoder `name`."""

    def add(build: Builder) -> Builder:
        BUILDERS[name] = build
        return build

    return add
