"""MobileNet-EdgeTPU and MobileNetV2: small encoders with published ImageNet weights.

Sources: Howard and Gupta 2019 (MobileNet-EdgeTPU, mlcommons/mobile_models) and Sandler et al. 2018 (arXiv 1801.04381).
Both follow TensorFlow: "SAME" padding (a stride-2 layer on an even size pads at the right and bottom only) and input
scaled to -1..1. The published weights have batch norm folded into the convolutions, hence the biases.
"""

from __future__ import annotations

import os
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionkit.data.images import Preprocessing
from captionkit.errors import ModelError
from captionkit.models.encoder import Encoder, EncoderConfig, register
from captionkit.utils import paths


class SameConv(nn.Module):
    """Convolution with TensorFlow's SAME padding, then optional batch norm, then the activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        act: nn.Module | None,
        norm: bool = False,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        # For an odd kernel at stride 1, SAME padding is symmetric, which the convolution can do itself.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=not norm)
        self.norm = nn.BatchNorm2d(outputs, epsilon) if norm else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers: `x` [B,C,H,W] -> [B,C',ceil(H/stride),ceil(W/stride)]."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if stride > 1:
            (top, bottom), (left, right) = (_same_padding(size, kernel, stride) for size in x.shape[-2:])
            x = functional.pad(x, (left, right, top, bottom))
        x = self._convolved(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.act is None else self.act(x)

    def _convolved(self, x: Tensor) -> Tensor:
        conv = self.conv
        strided_depthwise = conv.groups > 1 and conv.stride[0] > 1
        learns = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
        # On CPUs, the backward pass of strided depthwise convolutions is 10 to 30 times slower in 16 bits than in 32.
        if strided_depthwise and learns and x.is_cpu and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return conv(x.to(conv.weight.dtype))
        return conv(x)


class Block(NamedTuple):
    """The sizes of one inverted bottleneck, a row of the published tables."""

    inputs: int
    expand: int
    outputs: int
    kernel: int
    stride: int
    fused: bool = False
    residual: bool = True


class Bottleneck(nn.Module):
    """Inverted bottleneck: expand, depthwise, project; if fused, one full convolution replaces the first two."""

    def __init__(self, block: Block, act: nn.Module, norm: bool, epsilon: float = 1e-5) -> None:
        super().__init__()
        inputs, expand, outputs, kernel, stride, fused, residual = block
        conv = partial(SameConv, norm=norm, epsilon=epsilon)
        self.expand: SameConv | None
        if fused:
            self.expand = conv(inputs, expand, kernel, stride, act=act)
        elif expand != inputs:
            self.expand = conv(inputs, expand, 1, act=act)
        else:
            self.expand = None
        self.dw = None if fused else conv(expand, expand, kernel, stride, groups=expand, act=act)
        self.project = conv(expand, outputs, 1, act=None)
        self.residual = residual and stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: `x` [B,C,H,W] -> [B,C',H/stride,W/stride]."""
        y = x
        for layer in (self.expand, self.dw, self.project):
            if layer is not None:
                y = layer(y)
        return x + y if self.residual else y


class MobileNet(Encoder):
    """A chain of convolutions and bottlenecks; `features` is numbered as in the published weights."""

    def __init__(self, layers: list[nn.Module], dim: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(layers)
        self.dim = dim

    @property
    def stages(self) -> list[nn.Module]:
        return list(self.features)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // 32), -(-width // 32)

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def forward(self, images: Tensor) -> Tensor:
        """Encode `images` [B,3,H,W] in -1..1 -> grid [B,G,D]."""
        return self._stages(images, 0, None).flatten(2).transpose(1, 2)  # [B,D,H/32,W/32] -> [B,G,D]

    def _stages(self, x: Tensor, first: int, end: int | None) -> Tensor:
        """Run the stages from `first` up to, not including, `end`: feature maps [B,C,H,W] -> [B,C',H',W']."""
        for layer in self.features[first:end]:
            x = layer(x)
        return x

    @property
    def cacheable(self) -> bool:
        return self.trained_from != 0

    def encode_frozen(self, images: Tensor) -> Tensor:
        if self.trained_from is None:
            return self(images)
        return self._stages(images, 0, self.trained_from).permute(0, 2, 3, 1)  # [B,C,H',W'] -> [B,H',W',C]

    def encode_trained(self, maps: Tensor) -> Tensor:
        maps = maps.permute(0, 3, 1, 2)  # [B,H',W',C] -> [B,C,H',W']
        return self._stages(maps, self.trained_from or 0, None).flatten(2).transpose(1, 2)  # -> [B,D,H/32,W/32] -> ...

    def frozen_state(self) -> dict[str, Tensor]:
        frozen = tuple(f"features.{number}." for number in range(len(self.features))[: self.trained_from])
        return {name: value for name, value in self.state_dict().items() if name.startswith(frozen)}

    def load_published(self, path: str | os.PathLike[str]) -> None:
        """Load published ImageNet weights from a safetensors file, without the classifier.

        Raises ModelError for a missing or unreadable file, or one that does not fit this encoder.
        """
        from safetensors.torch import load_file

        if not paths.exists(path, ModelError):
            raise ModelError(f"{path}: no such file of encoder weights; see the README for where to get them")
        paths.check_file(path, ModelError)
        try:
            stored = load_file(path)
        except Exception as error:
            raise ModelError(f"{path}: not a safetensors file ({error}); get it again") from None
        wanted = self.state_dict()
        names = {self.published_name(name): name for name in wanted}
        found = {names[key]: value.to(wanted[names[key]].dtype) for key, value in stored.items() if key in names}
        missing = {name for name in set(wanted) - set(found) if not name.endswith("num_batches_tracked")}
        wrong = sorted(missing) + [k for k, v in found.items() if wanted[k].shape != v.shape]
        if wrong:
            raise ModelError(f"{path}: not the weights of this encoder ({wrong[0]} does not fit); name another file")
        self.load_state_dict(found, strict=False)  # norm layers' num_batches_tracked may be missing

    def published_name(self, name: str) -> str:
        """Return the name of a parameter in the published weights."""
        return name.replace(".conv.", ".")


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _repeat(first: Block, count: int, rest: Block) -> list[Block]:
    return [first] + [rest] * count


_EDGETPU = [
    *_repeat(Block(16, 128, 32, 3, 2, fused=True), 3, Block(32, 128, 32, 3, 1, fused=True)),
    *_repeat(Block(32, 256, 48, 3, 2, fused=True), 3, Block(48, 192, 48, 3, 1, fused=True)),
    *_repeat(Block(48, 384, 96, 3, 2), 3, Block(96, 384, 96, 3, 1)),
    *_repeat(Block(96, 768, 96, 3, 1, residual=False), 3, Block(96, 384, 96, 3, 1)),
    *_repeat(Block(96, 768, 160, 5, 2), 3, Block(160, 640, 160, 5, 1)),
    Block(160, 1280, 192, 3, 1),
]

#: [expansion, output channels, repeats, first stride], table 2 of the MobileNetV2 paper
_V2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


@register("mobilenet-edgetpu")
def mobilenet_edgetpu(config: EncoderConfig) -> MobileNet:
    """Build MobileNet-EdgeTPU 1.0: 2.8 M parameters, 0.99 GMAC at 224 x 224, grid 7 x 7 x 1280."""
    act, norm = nn.ReLU(), config.batch_norm
    stem = [SameConv(3, 32, 3, 2, act=act, norm=norm), SameConv(32, 16, 1, act=None, norm=norm)]
    blocks = [Bottleneck(block, act, norm) for block in _EDGETPU]
    return MobileNet([*stem, *blocks, SameConv(192, 1280, 1, act=act, norm=norm)], dim=1280)


@register("mobilenet-v2")
def mobilenet_v2(config: EncoderConfig) -> MobileNet:
    """Build MobileNetV2 1.0: 2.2 M parameters, 0.3 GMAC at 224 x 224, grid 7 x 7 x 1280."""
    act, norm = nn.ReLU6(), config.batch_norm
    layers: list[nn.Module] = [SameConv(3, 32, 3, 2, act=act, norm=norm)]
    width = 32
    for expansion, outputs, repeats, stride in _V2:
        for index in range(repeats):
            block = Block(width, width * expansion, outputs, 3, stride if index == 0 else 1)
            layers.append(Bottleneck(block, act, norm))
            width = outputs
    return MobileNet([*layers, SameConv(320, 1280, 1, act=act, norm=norm)], dim=1280)
