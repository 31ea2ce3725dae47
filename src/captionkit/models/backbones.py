"""Any Hugging Face transformers vision backbone that yields a grid, behind the Encoder contract.

Tried: ResNet, EfficientNet, ConvNeXt (a map [B,D,H,W]) and ViT, CLIP, DINOv2, SigLIP (tokens [B,prefix+G,D], of which
the last G are the patches).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captionkit.errors import ModelError
from captionkit.images import Preprocessing
from captionkit.models.encoder import Encoder, EncoderConfig, register

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
#: what each family was trained with, where it is not ImageNet's mean and deviation (transformers' image processors)
_NORMALISATION = {"clip": _CLIP, "vit": _HALF, "siglip": _HALF, "siglip2": _HALF, "beit": _HALF, "mobilenet_v2": _HALF}


class Backbone(Encoder):
    """A transformers vision model as an encoder."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        size = getattr(network.config, "image_size", None) or 224
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        with torch.no_grad():
            training = network.training
            network.eval()
            grid, self.dim, self._flat = self._probe()
            network.train(training)
        self._cell = (self.size[0] / grid[0], self.size[1] / grid[1])

    def _probe(self) -> tuple[tuple[int, int], int, bool]:
        out = self._features(torch.zeros(1, 3, *self.size))
        if out.ndim == 4:
            return (out.shape[2], out.shape[3]), out.shape[1], False
        patch = getattr(self.network.config, "patch_size", None)
        if out.ndim != 3 or not isinstance(patch, int):
            raise ModelError(f"backbone {self.network.config.model_type!r} yields no grid of features; use another")
        return (self.size[0] // patch, self.size[1] // patch), out.shape[2], True

    def _features(self, images: Tensor) -> Tensor:
        # Position embeddings of vision transformers are interpolated when the picture is not of the trained size.
        extra = {"interpolate_pos_encoding": True} if images.shape[-2:] != self.size else {}
        return self.network(pixel_values=images, **extra).last_hidden_state

    @property
    def stages(self) -> list[nn.Module]:
        lists = [module for module in self.network.modules() if isinstance(module, nn.ModuleList)]
        # The list that holds most of the parameters is the trunk: its items are the blocks or stages in order.
        trunk = max(lists, key=_size)
        return list(trunk) if len(trunk) > 1 else [self.network]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return -int(-height // self._cell[0]), -int(-width // self._cell[1])

    def preprocessing(self) -> Preprocessing:
        scale = _NORMALISATION.get(self.network.config.model_type.removesuffix("_vision_model"), _IMAGENET)
        return Preprocessing(height=self.size[0], width=self.size[1], **scale)

    def forward(self, images: Tensor) -> Tensor:
        """`images` [B,3,H,W], normalised as `preprocessing()` says -> grid [B,G,D]."""
        out = self._features(images)
        if not self._flat:
            return out.flatten(2).transpose(1, 2)  # [B,D,h,w] -> [B,G,D]
        rows, columns = self.grid(*images.shape[-2:])
        return out[:, -rows * columns :]  # [B,prefix+G,D] -> [B,G,D]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@register("transformers")
def backbone(config: EncoderConfig) -> Backbone:
    """The backbone of a stored transformers config, with random weights."""
    from transformers import AutoConfig, AutoModel

    stored = dict(config.backbone)
    kind = stored.pop("model_type")
    return Backbone(_vision_part(AutoModel.from_config(AutoConfig.for_model(kind, **stored))))


def load_backbone(config: EncoderConfig, *, pretrained: bool = True) -> tuple[Backbone, EncoderConfig]:
    """Fetch the backbone named in `config` (Hub id or folder); returns it with the config that rebuilds it offline."""
    from transformers import AutoConfig, AutoModel

    try:
        if pretrained:
            network = AutoModel.from_pretrained(config.name, use_safetensors=True)
        else:
            network = AutoModel.from_config(AutoConfig.from_pretrained(config.name))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{config.name}: cannot load this transformers backbone ({reason})") from None
    network = _vision_part(network)
    stored: dict[str, Any] = network.config.to_dict()
    name = Path(config.name).name if Path(config.name).exists() else config.name
    return Backbone(network), replace(config, name=name, backbone={k: v for k, v in stored.items() if v is not None})


def _vision_part(network: nn.Module) -> nn.Module:
    # CLIP and SigLIP are a vision and a text tower; only the first looks at pictures.
    return getattr(network, "vision_model", network)
