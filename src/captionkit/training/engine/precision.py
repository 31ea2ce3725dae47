"""Which arithmetic a machine is fast in."""

from __future__ import annotations

import platform
from dataclasses import replace

import torch

from captionkit.models.serialization import default_device
from captionkit.training.config.recipe import Recipe


def with_precision(recipe: Recipe) -> Recipe:
    """The recipe with a precision that is named: 'auto' becomes bf16 where the device computes in it, else no.

    A processor that only imitates bf16 is up to eighty times as slow in it.
    """
    if recipe.run.precision != "auto":
        return recipe
    return replace(recipe, run=replace(recipe.run, precision="bf16" if computes_in_bf16() else "no"))


def computes_in_bf16() -> bool:
    """Whether the device that training uses has bf16 instructions of its own."""
    device = default_device().type
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    # oneDNN, asked as on ARM, would count processors with AVX-512 alone, which convert back and forth.
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
