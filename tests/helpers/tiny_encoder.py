"""An encoder of the built-in kind that is exported and quantized in seconds; importing this registers its name."""

from __future__ import annotations

from torch import nn

from captionkit.models.encoder import EncoderConfig, register
from captionkit.models.mobilenet import Block, Bottleneck, MobileNet, SameConv

TINY = "mobilenet-tiny"


@register(TINY)
def mobilenet_tiny(config: EncoderConfig) -> MobileNet:
    """A MobileNetV2 of 14 convolutions instead of 52: full, depthwise and pointwise ones, and a residual."""
    act, norm = nn.ReLU6(), config.batch_norm
    blocks = [Block(16, 32, 16, 3, 2), Block(16, 32, 16, 3, 1), Block(16, 48, 24, 3, 2), Block(24, 48, 32, 3, 2)]
    layers = [SameConv(3, 16, 3, 4, act=act, norm=norm), *(Bottleneck(block, act, norm) for block in blocks)]
    return MobileNet([*layers, SameConv(32, 128, 1, act=act, norm=norm)], dim=128)
