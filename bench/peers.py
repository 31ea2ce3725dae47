"""Other captioners at the sizes people use, with random weights, since speed does not depend on them.

All tell `STEPS` tokens from a beam of 3, one image at a time, from the JPEG on disk to token ids.
"""

from __future__ import annotations

import os

# Models are made from configs; nothing is to be looked for on the Hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from speed_cases import FORCED, ONCE, STEPS
from textbook import Captioner, Encoder

BEAM = 3
_MEAN, _STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # of ImageNet


def pixels(photo: Path, side: int) -> Tensor:
    """An image as research code reads it, [1,3,side,side]."""
    image = Image.open(photo).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    array = (np.asarray(image, np.float32) / 255 - np.float32(_MEAN)) / np.float32(_STD)  # [H,W,3]
    return torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0)  # [1,3,H,W]


class Peer:
    """A turn captions the next of the photos, after one that is not counted: who has waited starts slowly."""

    def __init__(
        self, model: nn.Module, tell: dict[str, Callable[[Tensor], Sequence[int]]], photos: Sequence[Path], side: int
    ) -> None:
        self._model, self._tell, self._side = model.eval(), tell, side
        self._turns = {case: cycle(photos) for case in tell}
        self._first = photos[0]

    def prepare(self, case: str) -> dict[str, Any]:
        told = self._tell[case](pixels(self._first, self._side))
        if len(told) != STEPS:
            raise RuntimeError(f"told {len(told)} tokens instead of {STEPS}")
        return {"steps": STEPS, "parameters": sum(p.numel() for p in self._model.parameters())}

    def run(self, case: str) -> dict[str, Any]:
        self._tell[case](pixels(self._first, self._side))
        start = time.perf_counter()
        self._tell[case](pixels(next(self._turns[case]), self._side))
        return {"total": (time.perf_counter() - start) * 1000}


def textbook(
    photos: Sequence[Path], threads: int, side: int = 256, encoder: dict[str, Any] | None = None, **sizes: Any
) -> Peer:
    """The textbook captioner; `encoder` and `sizes` other than the usual ones are for tests."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Captioner(Encoder(**(encoder or {})), **sizes)

    def tell(image: Tensor, *, once: bool) -> list[int]:
        model.project_once = once
        return model.beam_search(image, BEAM, STEPS)

    return Peer(
        model, {FORCED: lambda image: tell(image, once=False), ONCE: lambda image: tell(image, once=True)}, photos, side
    )


def vit_gpt2(
    photos: Sequence[Path], threads: int, vit: dict[str, Any] | None = None, gpt2: dict[str, Any] | None = None
) -> Peer:
    """transformers' VisionEncoderDecoderModel of ViT-base/16 at 224 pixels and GPT-2, as nlpconnect's ViT-GPT2 is."""
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    torch.set_num_threads(threads)
    encoder, decoder = ViTConfig(**(vit or {})), GPT2Config(add_cross_attention=True, **(gpt2 or {}))
    model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))
    end = decoder.eos_token_id
    special = {"decoder_start_token_id": end, "pad_token_id": end, "eos_token_id": end}
    return Peer(model, {FORCED: _generation(model, **special)}, photos, encoder.image_size)


def blip(
    photos: Sequence[Path], threads: int, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None
) -> Peer:
    """transformers' BlipForConditionalGeneration at the size of BLIP-base, 384 pixels."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    torch.set_num_threads(threads)
    config = BlipConfig(text_config=text or {}, vision_config=vision or {})
    model = BlipForConditionalGeneration(config)
    return Peer(model, {FORCED: _generation(model)}, photos, config.vision_config.image_size)


def _generation(model: nn.Module, **special: int) -> Callable[[Tensor], Sequence[int]]:
    lengths = {"min_new_tokens": STEPS, "max_new_tokens": STEPS}

    def tell(image: Tensor) -> list[int]:
        with torch.inference_mode():
            told = model.generate(image, num_beams=BEAM, do_sample=False, use_cache=True, **lengths, **special)
        return told[0, -STEPS:].tolist()  # after the token that begins

    return tell
