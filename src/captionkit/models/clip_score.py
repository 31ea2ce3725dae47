"""CLIPScore with a CLIP model of transformers; see `captionkit.metrics.clip_score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from captionkit.data.images import Source
from captionkit.errors import ModelError
from captionkit.metrics.clip_score import ClipScoreMetric, clip_pixels, prompted
from captionkit.metrics.metric import Floats
from captionkit.models.huggingface import published_preprocessing, quiet, reason_of
from captionkit.models.serialization import default_device

_LEGACY_END = 2  # eos_token_id in OpenAI's configs; for this value transformers uses the highest token id instead


class ClipScore(ClipScoreMetric):
    """CLIPScore and RefCLIPScore with a CLIP model of transformers; the paper's is openai/clip-vit-base-patch32.

    `model` is a Hub id or a folder with safetensors weights and a tokenizer. `batch` images or captions are embedded at
    a time, on `device`, or by default on the accelerator if there is one. Raises ModelError if the model cannot be
    used.
    """

    def __init__(self, model: str, *, device: str | None = None, batch: int = 32) -> None:
        super().__init__(batch)
        self._clip, self._tokenizer = _load(model)
        published = published_preprocessing(model, self._clip.vision_model)
        side = self._clip.config.vision_config.image_size
        self._preprocessing = replace(published, height=side, width=side)
        self._length = self._clip.config.text_config.max_position_embeddings
        try:
            self._device = torch.device(device) if device else default_device()
            self._clip.to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"device {device!r} cannot be used ({reason_of(error)}); name another, as cpu") from None

    @torch.inference_mode()
    def _embed_images(self, images: Sequence[Source]) -> Floats:
        """Return unit-length embeddings [B,D]."""
        pixels = np.stack([self._preprocess(image) for image in images])
        return _unit(self._clip.get_image_features(torch.from_numpy(pixels).to(self._device)).pooler_output)

    @torch.inference_mode()
    def _embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return unit-length embeddings [T,D]."""
        parts = []
        for at in range(0, len(texts), self._batch):
            some = prompted(texts[at : at + self._batch])
            tokens = self._tokenizer(
                some, padding=True, truncation=True, max_length=self._length, return_tensors="pt"
            ).to(self._device)
            parts.append(_unit(self._clip.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output))
        return np.concatenate(parts)

    def _preprocess(self, image: Source) -> np.ndarray:
        return clip_pixels(image, self._preprocessing)


def _unit(features: Tensor) -> Floats:
    return normalize(features.float(), dim=1).cpu().double().numpy()  # MPS has no 64-bit floats


def _load(name: str) -> tuple[Any, Any]:
    """Load the CLIP model `name`, in 32 bits and in evaluation mode, and its tokenizer. Raises ModelError."""
    from transformers import AutoConfig, AutoTokenizer, CLIPModel

    way_out = "name the Hub id, or the folder, of a CLIP model with safetensors weights and a tokenizer"
    try:
        with quiet():
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            if config.model_type != "clip":
                raise ModelError(f"{name}: a model of the kind {config.model_type!r}, not 'clip'; {way_out}")
            options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
            loaded: Any = CLIPModel.from_pretrained(name, config=config, **options)  # a pair, with output_loading_info
            model, info = loaded
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except ModelError:
        raise
    except Exception as error:  # transformers raises many kinds of errors; all mean that loading failed
        raise ModelError(f"{name}: cannot load this CLIP model ({reason_of(error)}); {way_out}") from None
    lost = sorted(info["missing_keys"])
    if lost:
        raise ModelError(f"{name}: has no weights for {lost[0]} ({len(lost)} missing); {way_out}")
    fault = _tokenizer_fault(tokenizer, config.text_config)
    if fault:
        raise ModelError(f"{name}: {fault}; {way_out}")
    return model.eval(), tokenizer


def _tokenizer_fault(tokenizer: Any, config: Any) -> str:
    """Return why `tokenizer` does not fit the text encoder, or "".

    The text encoder would raise no error, but give all captions the same score.
    """
    ids = tokenizer.get_vocab()
    if not ids.keys() - set(tokenizer.all_special_tokens):  # transformers returns this for a folder without a tokenizer
        return "has no tokenizer"
    if max(ids.values()) >= config.vocab_size:
        return f"has a tokenizer of {max(ids.values()) + 1} tokens, but embeddings of {config.vocab_size}"
    if config.eos_token_id not in (_LEGACY_END, tokenizer.eos_token_id):
        return f"ends captions with token {tokenizer.eos_token_id}, but its text encoder with {config.eos_token_id}"
    return ""
