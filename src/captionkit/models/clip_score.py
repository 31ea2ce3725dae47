"""CLIPScore and RefCLIPScore (Hessel et al. 2021, arXiv 2104.08718): the similarity of caption and image under CLIP.

With image, candidate and reference embeddings v, c and r (section 3):

    CLIPScore    = 2.5 * max(cos(c, v), 0)
    RefCLIPScore = harmonic mean of CLIPScore and max(max over r of cos(c, r), 0)

The details follow the authors' code (github.com/jmhessel/clipscore): the prompt is prepended to candidates and
references, captions are truncated to CLIP's maximum length, and the weight of 2.5 is applied inside the harmonic mean.
The authors' code differs in that it ignores EXIF orientation, does not clip cos(c, r) at 0, computes in 16 bits on a
GPU (32 here), and cleans HTML entities and other encoding errors in captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from captionkit.data.images import Box, Source, describe, open_image, preprocess
from captionkit.errors import CaptionkitError, ModelError
from captionkit.metrics.metric import Floats, MetricResult, mean_result
from captionkit.models.huggingface import published_preprocessing, quiet, reason_of
from captionkit.models.serialization import default_device

PROMPT = "A photo depicts "
WEIGHT = 2.5
_LEGACY_END = 2  # eos_token_id in OpenAI's configs; for this value transformers uses the highest token id instead


class ClipScore:
    """CLIPScore and RefCLIPScore with a CLIP model of transformers; the paper's is openai/clip-vit-base-patch32.

    `model` is a Hub id or a folder with safetensors weights and a tokenizer. `batch` images or captions are embedded at
    a time, on `device`, or by default on the accelerator if there is one. Raises ModelError if the model cannot be
    used.
    """

    names: tuple[str, ...] = ("CLIPScore", "RefCLIPScore")
    needs_images = True

    def __init__(self, model: str, *, device: str | None = None, batch: int = 32) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        self._clip, self._tokenizer = _load(model)
        published = published_preprocessing(model, self._clip.vision_model)
        side = self._clip.config.vision_config.image_size
        self._preprocessing = replace(published, height=side, width=side)
        self._length = self._clip.config.text_config.max_position_embeddings
        self._batch = batch
        try:
            self._device = torch.device(device) if device else default_device()
            self._clip.to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"device {device!r} cannot be used ({reason_of(error)}); name another, as cpu") from None
        self.reset()

    def reset(self) -> None:
        """Discard all accumulated scores."""
        self._scores: list[Floats] = []

    def update(self, candidates: Sequence[str], references: Sequence[Sequence[str]], images: Sequence[Source]) -> None:
        """Add raw captions: per image one candidate, at least one reference, and the image itself.

        Raises CaptionkitError for an image without references and ImageError for one that cannot be read; nothing of
        the call is kept then.
        """
        rows = list(zip(candidates, references, images, strict=True))
        for number, (_, those, image) in enumerate(rows, sum(map(len, self._scores))):
            if not those:
                reason = f"image {number} ({describe(image)}) has no references"
                raise CaptionkitError(f"RefCLIPScore: {reason}; give it one, or leave the image out")
        self._scores += [self._score(rows[at : at + self._batch]) for at in range(0, len(rows), self._batch)]

    def compute(self) -> MetricResult:
        """Return the scores of all images so far; corpus scores are their means."""
        return mean_result(self.names, np.concatenate([np.empty((0, 2)), *self._scores]))

    def _score(self, rows: Sequence[tuple[str, Sequence[str], Source]]) -> Floats:
        """Return the scores [B,2] of B images."""
        embedded_images = self._embed_images([image for _, _, image in rows])  # [B,D]
        texts = dict.fromkeys(chain.from_iterable((candidate, *those) for candidate, those, _ in rows))
        embedded = dict(zip(texts, self._embed_texts(list(texts)), strict=True))
        clip, nearest = np.empty(len(rows)), np.empty(len(rows))
        for n, (candidate, those, _) in enumerate(rows):
            clip[n] = WEIGHT * max(embedded[candidate] @ embedded_images[n], 0)
            nearest[n] = max(*(embedded[candidate] @ embedded[reference] for reference in those), 0)
        both = clip + nearest
        # The harmonic mean is undefined if both are 0; use its limit, 0.
        harmonic = np.divide(2 * clip * nearest, both, out=np.zeros_like(both), where=both > 0)
        return np.stack([clip, harmonic], axis=1)

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
            prompted = [PROMPT + text for text in texts[at : at + self._batch]]
            tokens = self._tokenizer(
                prompted, padding=True, truncation=True, max_length=self._length, return_tensors="pt"
            ).to(self._device)
            parts.append(_unit(self._clip.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output))
        return np.concatenate(parts)

    def _preprocess(self, image: Source) -> np.ndarray:
        """Return the image [3,side,side] as in CLIP's training: shorter side resized to `side`, then a center crop."""
        opened = open_image(image)  # at full size: decoding a JPEG at half size gives slightly different pixels
        return preprocess(opened, self._preprocessing, box=_middle(*opened.size, self._preprocessing.width))


def _middle(width: int, height: int, side: int) -> Box:
    """Return the box, in fractions, of a resize of the shorter side to `side` followed by a center crop.

    Rounding follows torchvision's Resize and CenterCrop, which the authors' code uses, so that the crop is identical to
    the pixel.
    """
    across, down = (max(side, int(side * length / min(width, height))) for length in (width, height))
    left, top = round((across - side) / 2), round((down - side) / 2)
    return left / across, top / down, (left + side) / across, (top + side) / down


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
            options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
            model, info = CLIPModel.from_pretrained(name, config=config, **options)
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
