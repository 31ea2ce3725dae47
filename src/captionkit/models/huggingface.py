"""Hugging Face transformers vision backbones as encoders: any whose output is a grid.

Tested: ResNet, RegNet, EfficientNet, ConvNeXt (a feature map [B,D,h,w]), Swin, ViT, DeiT, CLIP, SigLIP, BEiT, DINOv2
(with and without registers) and DINOv3 (tokens [B,prefix+G,D], of which the last G are the cells in row-major order),
each also at image sizes other than the trained one.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captionkit.data.images import Preprocessing
from captionkit.errors import ModelError, one_line
from captionkit.models.encoder import Encoder, EncoderConfig, evaluating, register
from captionkit.utils import paths

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
#: mean and std of model families that do not use ImageNet's; used if a backbone's image processor config gives none
_NORMALISATION = {"clip": _CLIP, "vit": _HALF, "siglip": _HALF, "siglip2": _HALF, "beit": _HALF, "mobilenet_v2": _HALF}
_INTERPOLATION = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's resampling constants, as image processors store
#: entries of a transformers config that do not describe the architecture
_INCIDENTAL = ("architectures", "dtype", "id2label", "label2id", "transformers_version")


class HuggingFaceEncoder(Encoder):
    """A transformers vision model as an encoder. Raises ModelError if its output is not a grid."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self._preprocessing = preprocessing
        size = _pair(getattr(network.config, "image_size", None))
        self._trained = size or (preprocessing.height, preprocessing.width)
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters
        #: names of the network's parameters that the grid does not depend on, such as those of a pooling head
        with torch.enable_grad():
            out = self._output(*self._trained)
        used = set(map(id, leaves(out)))
        self.unused_parameters = frozenset(
            n for n, parameter in network.named_parameters() if id(parameter) not in used
        )
        # The cells may be preceded by a class token, a distillation token and registers.
        prefixes = {0, 1, 2, 1 + (getattr(network.config, "num_register_tokens", None) or 0)}
        cells, self._prefix = self._layout(out, *self._trained, prefixes)
        self._grids = {self._trained: cells}
        self.dim = out.shape[1] if out.ndim == 4 else out.shape[2]
        self.train_from(0)

    @property
    def stages(self) -> list[nn.Module]:
        """The layers before the blocks, then each block; layers after the blocks belong to the last one."""
        lists = [module for module in self.network.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
        if not lists:
            return [self.network]
        trunk = max(lists, key=_size)
        used = {id(p) for name, p in self.network.named_parameters() if name not in self.unused_parameters}
        before, after = ([m for m in part if _uses(m, used)] for part in _around(self.network, trunk))
        first = [nn.ModuleList(before)] if before else []
        return [*first, *trunk[:-1], nn.ModuleList([trunk[-1], *after])]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """See `Encoder.grid`. Raises ModelError for an image size that this backbone does not accept."""
        size = height, width
        if size not in self._grids:
            with torch.no_grad():
                self._grids[size], _ = self._layout(self._output(*size), *size, {self._prefix})
        return self._grids[size]

    def preprocessing(self) -> Preprocessing:
        return self._preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Encode `images` [B,3,H,W], normalised as in `preprocessing()` -> grid [B,G,D]."""
        out = self._features(self.network, images)
        if out.ndim == 4:
            return out.flatten(2).transpose(1, 2)  # [B,D,h,w] -> [B,G,D]
        return out[:, self._prefix :]  # [B,prefix+G,D] -> [B,G,D]

    def _features(self, network: nn.Module, images: Tensor) -> Tensor:
        # At sizes other than the trained one, position embeddings are interpolated; most families need the flag.
        resized = self._interpolates and tuple(images.shape[-2:]) != self._trained
        return network(pixel_values=images, **{"interpolate_pos_encoding": True} if resized else {}).last_hidden_state

    def _output(self, height: int, width: int) -> Tensor:
        """Return the output for a blank image of this size; the code need not know how each family rounds sizes.

        It is computed outside of inference mode, as some families keep tensors by size that training would use later.
        """
        weight = next(self.network.parameters())
        try:
            with torch.inference_mode(False), evaluating(self.network):
                return self._features(self.network, weight.new_zeros(1, 3, height, width))
        except Exception as error:  # networks that are not for images, or not for this size, raise all kinds of errors
            raise self._refusal(f"takes no images of {height} x {width} pixels ({reason_of(error)})") from None

    def _layout(self, out: Tensor, height: int, width: int, prefixes: set[int]) -> tuple[tuple[int, int], int]:
        """Return the rows and columns of the output grid, and the number of tokens before the cells."""
        config = config_of(self.network)
        if out.ndim == 4:
            rows, columns = out.shape[2:]
            if 0.5 < rows * width / (columns * height) < 2:  # otherwise the last dimension is the features'
                return (rows, columns), 0
        patch = _pair(getattr(config, "patch_size", None))
        if out.ndim == 3 and patch:
            # Each stage after the first of a hierarchical transformer (Swin) halves the grid.
            down, across = (side << len(getattr(config, "depths", None) or [0]) - 1 for side in patch)
            for rounded in (math.floor, math.ceil):
                rows, columns = rounded(height / down), rounded(width / across)
                prefix = out.shape[1] - rows * columns
                if rows * columns and prefix in prefixes:
                    return (rows, columns), prefix
        raise self._refusal(f"makes no grid of an image of {height} x {width} pixels, but {list(out.shape[1:])}")

    def _refusal(self, reason: str) -> ModelError:
        return ModelError(f"backbone {config_of(self.network).model_type!r} {reason}; use another backbone or size")


def config_of(network: nn.Module) -> Any:
    """Return the transformers config of a backbone, which torch's types do not know of."""
    return network.config


@register("transformers")
def backbone(config: EncoderConfig) -> HuggingFaceEncoder:
    """Build the backbone of a stored transformers config, with random weights."""
    from transformers import AutoConfig

    try:
        network = _random(AutoConfig.for_model(**config.backbone))
    except Exception as error:  # transformers raises many kinds of errors for invalid values
        raise ModelError(f"encoder {config.name!r}: cannot be built from its config ({reason_of(error)})") from None
    return HuggingFaceEncoder(network, Preprocessing.from_dict(config.preprocessing))


def load_huggingface_encoder(
    config: EncoderConfig, *, pretrained: bool = True
) -> tuple[HuggingFaceEncoder, EncoderConfig]:
    """Load the backbone named in `config` (Hub id or folder); return it and the config that rebuilds it offline.

    Weights are loaded from safetensors only, and no remote code is run. Raises ModelError if they are not available.
    """
    from transformers import AutoConfig, AutoModel

    missing: set[str] = set()
    try:
        if pretrained:
            options = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
            with quiet():
                whole, info = AutoModel.from_pretrained(config.name, output_loading_info=True, **options)
            missing = set(info["missing_keys"])
        else:
            whole = _random(AutoConfig.from_pretrained(config.name, trust_remote_code=False))
    except Exception as error:  # transformers raises many kinds of errors; all mean that loading failed
        reason = f"cannot load this transformers backbone ({reason_of(error)})"
        raise ModelError(f"{config.name}: {reason}; name a Hub id, or a folder with safetensors weights") from None
    network = _vision_part(whole)
    built = HuggingFaceEncoder(network, published_preprocessing(config.name, network))
    needed = {id(t) for name, t in network.state_dict(keep_vars=True).items() if name not in built.unused_parameters}
    lost = [name for name, t in whole.state_dict(keep_vars=True).items() if name in missing and id(t) in needed]
    if lost:
        raise ModelError(f"{config.name}: has no weights for {lost[0]} ({len(lost)} missing); name another backbone")
    path = Path(config.name)
    stored = json.loads(config_of(network).to_json_string(use_diff=False))
    filled = replace(
        config,
        name=paths.real(path).name if path.exists() else config.name,
        backbone={key: value for key, value in stored.items() if key not in _INCIDENTAL and not key.startswith("_")},
        preprocessing=json.loads(json.dumps(built.preprocessing().to_dict())),
    )
    return built, filled


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' loading messages, except progress bars on a terminal; callers check the loading info."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    logging.set_verbosity_error()
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _random(config: Any) -> nn.Module:
    from transformers import AutoModel

    return _vision_part(AutoModel.from_config(getattr(config, "vision_config", config), dtype=torch.float32))


def _vision_part(network: nn.Module) -> nn.Module:
    # CLIP and SigLIP consist of a vision and a text tower; only the vision tower encodes images.
    return getattr(network, "vision_model", network)


def published_preprocessing(name: str, network: nn.Module) -> Preprocessing:
    """Return the preprocessing of the backbone's stored image processor; its family's defaults for what is missing.

    Raises ModelError for BGR input or settings that are not supported.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError):
        found = {}
    if found.get("do_flip_channel_order"):
        raise ModelError(f"{name}: wants its colours in the order blue, green, red; use another backbone")
    side = _pair(found.get("crop_size" if found.get("do_center_crop") else "size"))
    config = config_of(network)
    height, width = side or _pair(getattr(config, "image_size", None)) or (224, 224)
    family = _NORMALISATION.get(config.model_type.removesuffix("_vision_model"), _IMAGENET)
    mean, std = found.get("image_mean", family["mean"]), found.get("image_std", family["std"])
    if found.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    try:
        # The processor scales pixels in 0..255; ours are in 0..1.
        scale = 255 * found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 255
        return Preprocessing.from_dict(
            {
                "height": height,
                "width": width,
                "interpolation": _INTERPOLATION.get(found.get("resample", -1), "bicubic"),
                "mean": tuple(value / scale for value in mean),
                "std": tuple(value / scale for value in std),
            }
        )
    except (ModelError, TypeError) as error:
        raise ModelError(f"{name}: its image processor's settings are not understood ({error})") from None


def _pair(size: Any) -> tuple[int, int] | None:
    """Return height and width from any form that transformers uses; None if they are not given."""
    if isinstance(size, dict):
        size = (size.get("height"), size.get("width")) if "height" in size else size.get("shortest_edge")
    pair = (size, size) if isinstance(size, int) else tuple(size or ())
    return pair if len(pair) == 2 and all(type(side) is int and side > 0 for side in pair) else None


def _around(module: nn.Module, trunk: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the parts of `module` before and after `trunk`, which is nested somewhere inside it."""
    before: list[nn.Module] = []
    after: list[nn.Module] = []
    part = before
    for child in module.children() if module is not trunk else ():
        if any(inner is trunk for inner in child.modules()):
            around = _around(child, trunk)
            before += around[0]
            after += around[1]
            part = after
        else:
            part.append(child)
    return before, after


def _uses(module: nn.Module, parameters: set[int]) -> bool:
    return any(id(parameter) in parameters for parameter in module.parameters())


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def leaves(output: Tensor) -> Iterator[Tensor]:
    """Yield the parameters that `output` was computed from."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        if hasattr(node, "variable"):
            yield node.variable


def reason_of(error: Exception) -> str:
    """Return the first line of a library's error, shortened to fit into a message."""
    return textwrap.shorten(one_line(error), 200)
