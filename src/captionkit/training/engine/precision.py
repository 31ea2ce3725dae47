"""Numeric precision of the forward pass, by device."""

from __future__ import annotations

import platform
from dataclasses import replace

import torch

from captionkit.models.serialization import default_device
from captionkit.training.config.recipe import Recipe


def with_precision(recipe: Recipe) -> Recipe:
    """Resolve trainer.precision='auto' to 'bf16' if the device has bf16 instructions, else to 'no'.

    A CPU that only emulates bf16 is up to eighty times slower with it.
    """
    if recipe.trainer.precision != "auto":
        return recipe
    return replace(recipe, trainer=replace(recipe.trainer, precision="bf16" if computes_in_bf16() else "no"))


def computes_in_bf16() -> bool:
    """Return whether the training device has native bf16 instructions."""
    device = default_device().type
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    # The oneDNN check used on ARM would also accept CPUs with plain AVX-512, which convert back and forth.
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
