"""Build an encoder from its config."""

from __future__ import annotations

from difflib import get_close_matches

from captionkit.errors import ModelError
from captionkit.models.encoder import BUILDERS, Encoder, EncoderConfig


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build the encoder that `config` describes, with random weights. Raises ModelError for an unknown name."""
    from captionkit.models import adapters, backbones, efficientnet_lite, mobilenet  # noqa: F401  (each registers its encoders)

    if config.backbone:
        return BUILDERS["transformers"](config)
    if adapters.is_adapted(config.name):
        return BUILDERS[config.name.partition(":")[0]](config)
    known = sorted(set(BUILDERS) - {"timm", "torchvision", "transformers"})
    if config.name not in known:
        near = get_close_matches(config.name, known, n=1)
        others = "a transformers backbone's name, timm:NAME or torchvision:NAME"
        hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)} or {others}"
        raise ModelError(f"encoder {config.name!r} is unknown; {hint}")
    return BUILDERS[config.name](config)
