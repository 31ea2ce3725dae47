"""Adapters for timm and torchvision models, if those libraries are installed: `timm:NAME` and `torchvision:NAME`.

Written against the sources of timm 1.0.31 (`create_model`, `forward_features`, `data.resolve_model_data_config`) and
torchvision 0.29.1 (`models.get_model`, `models.get_model_weights`). captionkit's extras install neither.

The grid is the feature map before pooling and the classifier. Both libraries publish a center-crop ratio for
evaluation (crop_pct, resize_size). It is ignored, as a caption describes the whole image; only the crop mode is used.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import interpolate

from captionkit.data.images import Preprocessing
from captionkit.errors import ModelError
from captionkit.models.encoder import Encoder, EncoderConfig, meta_device, register
from captionkit.models.huggingface import leaves, reason_of

_FITS = {"center": "crop", "squash": "squash", "border": "pad"}  # timm's crop_mode -> our fit
#: options that let a timm model accept other input sizes; the first set that the model family supports is used
_RESIZABLE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {},
)
#: child modules of torchvision models that come after the grid
_HEADS = ("avgpool", "classifier", "fc", "head")


class Trunk(NamedTuple):
    """A network whose output [B,D,h,w], [B,h,w,D] or [B,prefix+G,D] contains a grid, and the layout of that output."""

    network: nn.Module
    preprocessing: Preprocessing
    channels_last: bool = False
    #: for token outputs: the number of prefix tokens (class token, registers), and the patch height and width in pixels
    prefix: int = 0
    patch: tuple[int, int] | None = None


class TrunkEncoder(Encoder):
    """A timm or torchvision trunk as an encoder. Raises ModelError if its output is not a grid."""

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
        modes = {module: module.training for module in self.network.modules()}
        self.network.eval()  # in training mode, batch norm rejects a batch of one cell
        try:
            with meta_device(self.network), torch.enable_grad():
                out = functional_call(self.network, {**outlines, **buffers}, torch.zeros(1, 3, height, width))
            used = set(map(id, leaves(out)))
        except Exception as error:  # networks raise all kinds of errors for sizes they do not support
            raise self._refusal(f"takes no images of {height} x {width} pixels ({reason_of(error)})") from None
        finally:
            for module, mode in modes.items():
                module.training = mode
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


def is_timm_or_torchvision(name: str) -> bool:
    """Return whether `name` is that of a timm or torchvision model, such as "timm:resnet18"."""
    library, colon, _ = name.partition(":")
    return bool(colon) and library in _TRUNKS


def load_trunk_encoder(config: EncoderConfig, *, pretrained: bool = True) -> tuple[TrunkEncoder, EncoderConfig]:
    """Load the encoder named in `config`; return it and the config that rebuilds it offline.

    Weights are loaded from safetensors only. timm publishes such files and torchvision does not, so torchvision models
    are available without pretrained weights only. Raises ModelError if the library is not installed, the name is
    unknown or the weights are not available.
    """
    library, _, name = config.name.partition(":")
    trunk = _TRUNKS[library](config.name, name, pretrained)
    if config.preprocessing:
        trunk = trunk._replace(preprocessing=Preprocessing.from_dict(config.preprocessing))
    stored = trunk.preprocessing.to_dict()
    # Lists for tuples, as a round trip through JSON would give.
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in stored.items()}
    return TrunkEncoder(config.name, trunk), replace(config, preprocessing=listed)


@register("timm")
@register("torchvision")
def trunk_encoder(config: EncoderConfig) -> TrunkEncoder:
    """Build the encoder of a stored config, with random weights."""
    return load_trunk_encoder(config, pretrained=False)[0]


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


class _Tokens(nn.Module):
    """torchvision's vision transformer without its head, for any image size of at least one patch.

    Position embeddings are interpolated bicubically over the trained grid, as in DINO (Caron et al. 2021, arXiv
    2104.14294).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.side = model.image_size // model.patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Encode [B,3,H,W] -> [B,1+G,D]; pixel rows and columns that do not fill a patch are ignored."""
        model = self.model
        cells = model.conv_proj(images)  # [B,3,H,W] -> [B,D,h,w]
        first = model.class_token.expand(images.shape[0], -1, -1)  # [1,1,D] -> [B,1,D]
        tokens = torch.cat([first, cells.flatten(2).transpose(1, 2)], 1)  # [B,D,h,w] -> [B,1+G,D]
        encoder = model.encoder
        return encoder.ln(encoder.layers(encoder.dropout(tokens + self._positions(*cells.shape[2:]))))

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return the position embeddings [1,1+G,D] for a grid of `rows` x `columns`."""
        stored = self.model.encoder.pos_embedding
        if (rows, columns) == (self.side, self.side):
            return stored
        table = stored[:, 1:].transpose(1, 2).unflatten(2, (self.side, self.side))  # [1,S*S,D] -> [1,D,S,S]
        resized = interpolate(table, (rows, columns), mode="bicubic", align_corners=False)  # -> [1,D,h,w]
        return torch.cat([stored[:, :1], resized.flatten(2).transpose(1, 2)], 1)


def _torchvision(full: str, name: str, pretrained: bool) -> Trunk:
    models = _library(full, "torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(full, known)
    if pretrained:
        raise ModelError(
            f"encoder {full!r}: torchvision publishes its weights pickled, and nothing pickled is loaded; take timm's "
            f"copy of them, such as 'timm:{name}.tv_in1k', or set encoder.pretrained to false"
        )
    published = models.get_model_weights(name).DEFAULT
    try:
        model = models.get_model(name, weights=None)
    except Exception as error:  # torchvision raises many kinds of errors; all mean that the model cannot be created
        raise _unmade(full, error) from None
    if hasattr(model, "transform_input"):  # GoogLeNet and Inception: auxiliary classifiers sit between the stages
        raise ModelError(f"encoder {full!r}: it is not a chain of stages; use another encoder")
    usual = published.transforms()
    side = usual.crop_size[0]
    preprocessing = _preprocessing(full, side, side, "crop", usual.interpolation.value, usual.mean, usual.std)
    if hasattr(model, "class_token"):
        return Trunk(_Tokens(model), preprocessing, prefix=1, patch=(model.patch_size, model.patch_size))
    return Trunk(_chain(model), preprocessing)


def _chain(model: nn.Module) -> nn.Sequential:
    """Return the child modules of a torchvision model before its pooling as a chain, under their own names."""
    links: OrderedDict[str, nn.Module] = OrderedDict()
    for name, part in takewhile(lambda child: child[0] not in _HEADS, model.named_children()):
        links |= {f"{name}_{i}": p for i, p in enumerate(part)} if type(part) is nn.ModuleList else {name: part}
    if type(model).__name__ == "DenseNet":
        links["relu"] = nn.ReLU()  # DenseNet applies it as a function in forward, not as a module
    return nn.Sequential(links)


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


_TRUNKS = {"timm": _timm, "torchvision": _torchvision}


def _library(full: str, module: str) -> Any:
    library = module.partition(".")[0]
    try:
        import_module(library)
        return import_module(module)
    except Exception as error:  # torchvision fails in many ways where it was built for another torch
        absent = isinstance(error, ModuleNotFoundError) and error.name == library
        state = "is not installed" if absent else f"cannot be imported ({reason_of(error)})"
        wanted = " ".join(dict.fromkeys((library, "torchvision")))
        fitting = f"in builds that fit torch {torch.__version__}"
        raise ModelError(f"encoder {full!r}: {library} {state}; run `pip install {wanted}`, {fitting}") from None


def _unknown(full: str, known: Iterable[str]) -> ModelError:
    library, _, name = full.partition(":")
    near = get_close_matches(name, list(known), n=1)
    hint = f"did you mean '{library}:{near[0]}'?" if near else f"name one that {library}'s list_models() has"
    return ModelError(f"encoder {full!r}: {library} has no model of this name; {hint}")


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
