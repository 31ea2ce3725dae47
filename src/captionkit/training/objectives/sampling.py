"""Sampling captions from the distribution of a model in training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from captionkit.data.tokenizer import Tokenizer
from captionkit.models.captioning_model import CaptioningModel

#: drop finished images from the batch once they are at least this share of it; dropping them has a cost too
_DONE = 0.25


@torch.no_grad()
def sample_captions(
    model: CaptioningModel,
    memory: Tensor,
    chances: np.ndarray,
    tokenizer: Tokenizer,
    temperature: float,
    *,
    greedy: bool,
) -> list[list[list[int]]]:
    """Sample K captions for each of the images `memory` [B,G,D].

    Returns token ids, with the end token unless the caption was cut. `chances` float32 [B,K,L] are uniform in [0, 1):
    each draws a token by inverse transform sampling, so the captions of an image do not depend on the rest of the
    batch. L is the maximum number of tokens. With `greedy` the first caption of each image is decoded greedily. Only
    tokens that a caption may contain are drawn.
    """
    images, samples, length = chances.shape
    state, numbers = model.begin(memory), torch.from_numpy(chances).to(memory.device)
    never = banned_ids(tokenizer, memory.device)
    rows = torch.arange(images, device=memory.device)  # image index of each row
    tokens, parents = rows.new_full((images, 1), tokenizer.bos_id), rows.new_zeros(images, 1)
    said = rows.new_full((images, samples, length), tokenizer.eos_id)
    live = torch.ones(images, samples, dtype=torch.bool, device=memory.device)
    for place in range(length):
        logits, _, changed = model.step(tokens, parents, state)
        state = {**state, **changed}
        probabilities = mask_banned(logits.float(), never, temperature).softmax(-1)  # [B,1 or K,V]
        drawn = draw(probabilities, numbers[rows, :, place])  # [B,K]
        if greedy:
            drawn[:, 0] = probabilities[:, 0].argmax(-1)  # [B,K,V] -> [B,V] -> [B]
        tokens = torch.where(live, drawn, tokenizer.eos_id)
        said[rows, :, place] = tokens
        live = live & (tokens != tokenizer.eos_id)
        stay = live.any(1)  # [B,K] -> [B]
        if not stay.any():
            break
        parents = torch.arange(samples, device=rows.device).expand_as(tokens) if place else torch.zeros_like(tokens)
        if stay.float().mean() <= 1 - _DONE:
            state = {name: value[stay] for name, value in state.items()}  # [B,...] -> [B',...]
            rows, tokens, parents, live = (value[stay] for value in (rows, tokens, parents, live))
    return [[_cut(caption, tokenizer.eos_id) for caption in captions] for captions in said.tolist()]


def banned_ids(tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """Return the ids of the tokens that a caption must not contain."""
    return torch.tensor(sorted(tokenizer.never_generated), device=device)


def mask_banned(logits: Tensor, never: Tensor, temperature: float) -> Tensor:
    """Divide `logits` [...,V] by the temperature and set the banned tokens `never` to -inf."""
    return (logits / temperature).index_fill(-1, never, float("-inf"))


def draw(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """Draw tokens [B,K] by inverse transform sampling: `numbers` [B,K] in [0, 1), `probabilities` [B,1 or K,V]."""
    heights = probabilities.cumsum(-1)  # [B,k,V]
    top = heights[..., -1:]  # [B,k,1]
    wanted = numbers.unflatten(1, (heights.shape[1], -1)) * top  # [B,K] -> [B,k,K/k]
    below = torch.nextafter(top, torch.zeros_like(top))  # a product may round up to the total, past the last token
    return torch.searchsorted(heights, torch.minimum(wanted, below), right=True).flatten(1)  # [B,k,K/k] -> [B,K]


def _cut(tokens: list[int], eos_id: int) -> list[int]:
    return tokens[: tokens.index(eos_id) + 1] if eos_id in tokens else tokens
