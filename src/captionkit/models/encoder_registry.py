"""The registry of encoders: a builder by name.

To add an encoder, write a function `EncoderConfig -> Encoder`, decorate it with `@register("its-name")` (`encoder.py`)
and import its module in `build_encoder`.
"""

from __future__ import annotations

from difflib import get_close_matches

from captionkit.errors import ModelError
from captionkit.models.encoder import BUILDERS, Encoder, EncoderConfig


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build the encoder that `config` describes, with random weights. Raises ModelError for an unknown name."""
    from captionkit.models import efficientnet_lite, huggingface, mobilenet, timm  # noqa: F401  (each registers its encoders)

    if config.backbone:
        return BUILDERS["transformers"](config)
    if timm.is_timm(config.name):
        return BUILDERS["timm"](config)
    timm.refuse_torchvision(config.name)
    known = sorted(set(BUILDERS) - {"timm", "transformers"})
    if config.name not in known:
        near = get_close_matches(config.name, known, n=1)
        others = "a transformers backbone's name or timm:NAME"
        hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)} or {others}"
        raise ModelError(f"encoder {config.name!r} is unknown; {hint}")
    return BUILDERS[config.name](config)
