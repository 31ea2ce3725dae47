"""Adapter for timm models, if timm is installed: `timm:NAME`.

Written against the sources of timm 1.0.31 (`create_model`, `forward_features`, `data.resolve_model_data_config`).

The grid is the feature map before pooling and the classifier. timm publishes a center-crop ratio for evaluation
(crop_pct). It is ignored, as a caption describes the whole image; only the crop mode is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from captionkit.data.images import Preprocessing
from captionkit.errors import ModelError
from captionkit.models.encoder import Encoder, EncoderConfig, evaluating, register
from captionkit.models.huggingface import leaves, reason_of

_PREFIX = "timm:"
_FITS = {"center": "crop", "squash": "squash", "border": "pad"}  # timm's crop_mode -> our fit
#: options that let a timm model accept other input sizes; the first set that the model family supports is used
_RESIZABLE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {},
)


class Trunk(NamedTuple):
    """A network whose output [B,D,h,w], [B,h,w,D] or [B,prefix+G,D] contains a grid, and the layout of that output."""

    network: nn.Module
    preprocessing: Preprocessing
    channels_last: bool = False
    #: for token outputs: the number of prefix tokens (class token, registers), and the patch height and width in pixels
    prefix: int = 0
    patch: tuple[int, int] | None = None


class TimmEncoder(Encoder):
    """A timm trunk as an encoder. Raises ModelError if its output is not a grid."""

    def __init__(self, name: str, trunk: Trunk) -> None:
        super().__init__()
        self.name, self.network, self._trunk = name, trunk.network, trunk
        size = trunk.preprocessing.height, trunk.preprocessing.width
        #: names of the network's parameters that the grid does not depend on, such as those of a head
        out, self.unused_parameters = self._outline(*size)
        self._grids = {size: self._shape(out, *size)}
        self.dim = out.shape[1 if out.ndim == 4 and not trunk.channels_last else -1]
        self.train_from(0)

    @property
    def stages(self) -> list[nn.Module]:
        """The stem, then each stage or block of the trunk.

        A norm layer between two stages belongs to the second; a norm layer after all of them belongs to the last.
        """
        used = {id(p) for name, p in self.network.named_parameters() if name not in self.unused_parameters}
        return [nn.ModuleList(group) if len(group) > 1 else group[0] for group in _grouped(_parts(self.network, used))]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """See `Encoder.grid`. Raises ModelError for an image size that this network does not accept."""
        size = height, width
        if size not in self._grids:
            self._grids[size] = self._shape(self._outline(*size)[0], *size)
        return self._grids[size]

    def preprocessing(self) -> Preprocessing:
        return self._trunk.preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Encode `images` [B,3,H,W], normalised as in `preprocessing()` -> grid [B,G,D]."""
        out = self.network(images)
        if out.ndim == 3:
            return out[:, self._trunk.prefix :]  # [B,prefix+G,D] -> [B,G,D]
        # [B,h,w,D] -> [B,G,D], or [B,D,h,w] -> [B,D,G] -> [B,G,D]
        return out.flatten(1, 2) if self._trunk.channels_last else out.flatten(2).transpose(1, 2)

    def _outline(self, height: int, width: int) -> tuple[Tensor, frozenset[str]]:
        """Return the output for an image of this size, as a meta tensor, and the names of the unused parameters."""
        outlines = {name: p.detach().to("meta").requires_grad_() for name, p in self.network.named_parameters()}
        buffers = {name: buffer.to("meta") for name, buffer in self.network.named_buffers()}
        try:
            # in training mode, batch norm rejects a batch of one cell
            with torch.device("meta"), torch.enable_grad(), evaluating(self.network):
                out = functional_call(self.network, {**outlines, **buffers}, torch.zeros(1, 3, height, width))
            used = set(map(id, leaves(out)))
        except Exception as error:  # networks raise all kinds of errors for sizes they do not support
            raise self._refusal(f"takes no images of {height} x {width} pixels ({reason_of(error)})") from None
        return out, frozenset(name for name, outline in outlines.items() if id(outline) not in used)

    def _shape(self, out: Tensor, height: int, width: int) -> tuple[int, int]:
        """Return the number of rows and columns of the output grid."""
        _, _, channels_last, prefix, patch = self._trunk
        if out.ndim == 4:
            rows, columns = out.shape[1:3] if channels_last else out.shape[2:]
            return rows, columns
        if out.ndim == 3 and patch:
            for rounded in (math.floor, math.ceil):
                rows, columns = rounded(height / patch[0]), rounded(width / patch[1])
                if rows * columns and out.shape[1] == prefix + rows * columns:
                    return rows, columns
        raise self._refusal(f"makes no grid of an image of {height} x {width} pixels, but {list(out.shape[1:])}")

    def _refusal(self, reason: str) -> ModelError:
        return ModelError(f"encoder {self.name!r} {reason}; use another encoder or size")


def is_timm(name: str) -> bool:
    """Return whether `name` is that of a timm model, such as "timm:resnet18"."""
    return name.startswith(_PREFIX)


def refuse_torchvision(name: str) -> None:
    """Raise ModelError for the name of a torchvision model, which earlier versions took: "torchvision:resnet18"."""
    library, _, model = name.partition(":")
    if library == "torchvision" and model:
        raise ModelError(f"encoder {name!r}: models of torchvision are gone; use '{_PREFIX}{model}'")


def load_timm_encoder(config: EncoderConfig, *, pretrained: bool = True) -> tuple[TimmEncoder, EncoderConfig]:
    """Load the encoder named in `config`; return it and the config that rebuilds it offline.

    Weights are loaded from safetensors only. Raises ModelError if timm is not installed, the name is unknown or the
    weights are not available.
    """
    trunk = _timm(config.name, config.name.removeprefix(_PREFIX), pretrained)
    if config.preprocessing:
        trunk = trunk._replace(preprocessing=Preprocessing.from_dict(config.preprocessing))
    stored = trunk.preprocessing.to_dict()
    # Lists for tuples, as a round trip through JSON would give.
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in stored.items()}
    return TimmEncoder(config.name, trunk), replace(config, preprocessing=listed)


@register("timm")
def timm_encoder(config: EncoderConfig) -> TimmEncoder:
    """Build the encoder of a stored config, with random weights."""
    return load_timm_encoder(config, pretrained=False)[0]


class _ForwardFeatures(nn.Module):
    """A timm model without its head: `forward_features` as `forward`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_features(images)


def _timm(full: str, name: str, pretrained: bool) -> Trunk:
    timm, data = _library(full, "timm"), _library(full, "timm.data")
    if "/" in name or not timm.is_model(name):
        raise _unknown(full, timm.list_models())
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if pretrained:
        published = timm.get_pretrained_cfg(name)
        if published is None or not published.hf_hub_id:
            raise ModelError(
                f"encoder {full!r}: timm has no weights for it on the Hub; set encoder.pretrained to false"
            )
        # With an explicit file name, timm loads that file or fails; otherwise it may fall back to pickled weights.
        options["pretrained_cfg_overlay"] = {"hf_hub_filename": "model.safetensors"}
    model = _resizable(timm.create_model, full, name, options)
    usual = data.resolve_model_data_config(model)
    _, height, width = usual["input_size"]
    preprocessing = _preprocessing(
        full, height, width, _FITS.get(usual["crop_mode"], "crop"), usual["interpolation"], usual["mean"], usual["std"]
    )
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    return Trunk(
        _ForwardFeatures(model),
        preprocessing,
        channels_last=getattr(model, "output_fmt", "") == "NHWC",
        prefix=getattr(model, "num_prefix_tokens", 0),
        patch=(patch, patch) if isinstance(patch, int) else patch,
    )


def _resizable(create: Any, full: str, name: str, options: dict[str, Any]) -> nn.Module:
    for more in _RESIZABLE:
        try:
            return create(name, **options, **more)
        except Exception as error:  # timm raises many kinds of errors; all mean that the model cannot be created
            unknown = isinstance(error, TypeError) and "unexpected keyword argument" in str(error)
            if not (more and unknown):
                raise _unmade(full, error) from None
    raise AssertionError("the last try is without options")


def _preprocessing(
    full: str, height: int, width: int, fit: str, interpolation: str, mean: Iterable[float], std: Iterable[float]
) -> Preprocessing:
    smooth = interpolation if interpolation in ("bilinear", "bicubic", "lanczos") else "bicubic"
    try:
        return Preprocessing.from_dict(
            {
                "height": height,
                "width": width,
                "fit": fit,
                "interpolation": smooth,
                "mean": tuple(mean),
                "std": tuple(std),
            }
        )
    except ModelError as error:
        raise ModelError(f"encoder {full!r}: its preprocessing is not understood ({error})") from None


def _library(full: str, module: str) -> Any:
    try:
        return import_module(module)
    except Exception as error:  # timm imports torchvision, which fails in many ways if built for another torch
        absent = isinstance(error, ModuleNotFoundError) and error.name == "timm"
        state = "is not installed" if absent else f"cannot be imported ({reason_of(error)})"
        remedy = f"run `pip install 'captionkit[timm]'`, with a torchvision that fits torch {torch.__version__}"
        raise ModelError(f"encoder {full!r}: timm {state}; {remedy}") from None


def _unknown(full: str, known: Iterable[str]) -> ModelError:
    near = get_close_matches(full.removeprefix(_PREFIX), list(known), n=1)
    hint = f"did you mean '{_PREFIX}{near[0]}'?" if near else "name one that timm's list_models() has"
    return ModelError(f"encoder {full!r}: timm has no model of this name; {hint}")


def _unmade(full: str, error: Exception) -> ModelError:
    return ModelError(f"encoder {full!r}: cannot be made or its weights be had ({reason_of(error)}); use another")


def _parts(module: nn.Module, used: set[int]) -> list[nn.Module]:
    """Return the parts of `module` in order; a part that holds nearly all parameters is itself split into its parts."""
    parts = [child for child in module.children() if _size(child, used)]
    if not parts:
        return [module]
    chains = [p for p in parts if _is_chain(p)] or [p for p in parts if any(map(_is_chain, p.modules()))] or parts
    main = max(chains, key=lambda part: _size(part, used))
    if _size(main, used) < 0.9 * sum(_size(part, used) for part in chains):
        return parts
    return [inner for part in parts for inner in (_parts(part, used) if part is main else [part])]


def _is_chain(module: nn.Module) -> bool:
    return type(module) in (nn.Sequential, nn.ModuleList)


def _grouped(parts: list[nn.Module]) -> list[list[nn.Module]]:
    """Group single layers with the next block, or with the last; those before the first block form a stem."""
    blocks = {id(part) for part in parts if any(_size(child) for child in part.children())}
    if not blocks:
        return [[part] for part in parts]
    groups: list[list[nn.Module]] = [[]]
    for part in parts:
        groups[-1].append(part)
        if id(part) in blocks:
            groups.append([])
    first, last = groups[0], groups.pop()
    groups[-1] += last
    return [first[:-1], first[-1:], *groups[1:]] if len(first) > 1 and len(groups) > 1 else groups


def _size(module: nn.Module, used: set[int] | None = None) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if used is None or id(parameter) in used)
