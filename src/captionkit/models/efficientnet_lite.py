"""EfficientNet-Lite2: a small encoder with published ImageNet weights, which keeps its norm layers.

Sources: Tan and Le 2019 (EfficientNet, arXiv 1905.11946) and TensorFlow's EfficientNet-Lite (tensorflow/tpu), which
removes squeeze-and-excitation and uses ReLU6 so that it quantizes well to 8 bits. Padding is TensorFlow's "SAME", and
the input is `(x - 127) / 128` for bytes x.
"""

from __future__ import annotations

from torch import nn

from captionkit.data.images import Preprocessing
from captionkit.models.encoder import EncoderConfig, register
from captionkit.models.mobilenet import Block, Bottleneck, MobileNet, SameConv

#: epsilon of the norm layers, as in TensorFlow's code
_EPSILON = 1e-3
#: [repeats, kernel, first stride, expansion, output channels] of Lite2: width 1.1 and depth 1.2 times those of B0
_LITE2 = [
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
]
#: names in the published weights of the convolution and norm layer of a bottleneck's parts, of the stem and the head
_PARTS = {
    "expand": {"conv": "_expand_conv", "norm": "_bn0"},
    "dw": {"conv": "_depthwise_conv", "norm": "_bn1"},
    "project": {"conv": "_project_conv", "norm": "_bn2"},
}
_STEM, _HEAD = {"conv": "_conv_stem", "norm": "_bn0"}, {"conv": "_conv_head", "norm": "_bn1"}


class EfficientNetLite(MobileNet):
    """The chain of convolutions and bottlenecks of EfficientNet-Lite."""

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

    def published_name(self, name: str) -> str:
        """Return the name in the published weights of the parameter `features.N.PART.(conv|norm).X`."""
        _, number, *part, layer, tensor = name.split(".")
        if part:
            return f"_blocks.{int(number) - 1}.{_PARTS[part[0]][layer]}.{tensor}"
        return f"{(_STEM if number == '0' else _HEAD)[layer]}.{tensor}"


@register("efficientnet-lite2")
def efficientnet_lite2(config: EncoderConfig) -> EfficientNetLite:
    """Build EfficientNet-Lite2.

    4.8 M parameters, 0.65 GMAC at 224 x 224 (0.90 at the published 260), grid 7 x 7 x 1280.
    """
    act = nn.ReLU6()
    layers: list[nn.Module] = [SameConv(3, 32, 3, 2, act=act, norm=True, epsilon=_EPSILON)]
    width = 32
    for repeats, kernel, stride, expansion, outputs in _LITE2:
        for index in range(repeats):
            block = Block(width, width * expansion, outputs, kernel, stride if index == 0 else 1)
            layers.append(Bottleneck(block, act, norm=True, epsilon=_EPSILON))
            width = outputs
    return EfficientNetLite([*layers, SameConv(width, 1280, 1, act=act, norm=True, epsilon=_EPSILON)], dim=1280)
