"""Decoders of transformers, computed layer by layer from their own weights so that beams share an image's memory.

transformers copies an image's features, keys and values for every beam. Here an image's keys and values are computed
once, as "memory.*" [B,h,G,d], and all beams query them: the beams [B,K] take the place of the positions of a sequence.
The image is either attended to in layers of its own (`CrossAttention`), or stands before the words in every layer's
self-attention (a prefix).

Sizes: B images, K beams, T words so far, M tokens of the memory or prefix, C cells of the attention map, h heads of
width d, W width of the decoder, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from captionkit.models.decoder import reorder


class Cache(NamedTuple):
    """Keys and values of an attention layer: of the words so far [B,K,h,T,d], or of the image [B,h,M,d]."""

    keys: Tensor
    values: Tensor


class SelfAttention(nn.Module):
    """Attention of each hypothesis to its own words and, if there is a prefix, to that of its image."""

    def __init__(self, project: nn.Linear, output: nn.Module, heads: int, scale: float) -> None:
        """`project` maps [...,W] to queries, keys and values side by side [...,3hd], `output` [...,hd] to [...,W]."""
        super().__init__()
        self.project, self.output, self.heads, self.scale = project, output, heads, scale

    def forward(
        self, x: Tensor, parents: Tensor, words: Cache, prefix: Cache | None, bias: Tensor | None
    ) -> tuple[Tensor, Cache, Tensor | None]:
        """Attend from each newest word, `x` [B,K,W] -> [B,K,W], the caches with that word, and the prefix' weights.

        `parents` [B,K] reorders the caches. `bias` [h,T+1] is added to the scores of the words. The weights of the
        prefix are averaged over heads, [B,K,M].
        """
        query, key, value = self.project(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # [B,K,3hd] -> [B,K,h,d] each
        query = query * self.scale
        keys = torch.cat([reorder(words.keys, parents), key.unsqueeze(3)], 3)  # [B,K,h,T,d] -> [B,K,h,T+1,d]
        values = torch.cat([reorder(words.values, parents), value.unsqueeze(3)], 3)  # [B,K,h,T+1,d]
        scores = (query.unsqueeze(3) @ keys.transpose(-2, -1)).squeeze(3)  # [B,K,h,1,d] -> [B,K,h,T+1]
        if bias is not None:
            scores = scores + bias
        if prefix is None:
            attended = (scores.softmax(-1).unsqueeze(3) @ values).squeeze(3)  # [B,K,h,T+1] -> [B,K,h,d]
            return self.output(attended.flatten(2)), Cache(keys, values), None
        seen = query.transpose(1, 2) @ prefix.keys.transpose(-2, -1)  # [B,h,K,d] x [B,h,d,M] -> [B,h,K,M]
        weights = torch.cat([seen.transpose(1, 2), scores], -1).softmax(-1)  # [B,K,h,M+T+1]
        at_prefix, at_words = weights.tensor_split([prefix.keys.shape[2]], -1)  # [B,K,h,M], [B,K,h,T+1]
        attended = (at_words.unsqueeze(3) @ values).squeeze(3)  # [B,K,h,d]
        attended = attended + (at_prefix.transpose(1, 2) @ prefix.values).transpose(1, 2)  # [B,h,K,d] -> [B,K,h,d]
        return self.output(attended.flatten(2)), Cache(keys, values), at_prefix.mean(2)  # [B,K,h,d] -> [B,K,W]

    def prefix(self, x: Tensor, *, causal: bool) -> tuple[Tensor, Cache]:
        """Attend within a prefix, `x` [B,M,W] -> [B,M,W] and its keys and values [B,h,M,d]."""
        projected = self.project(x).unflatten(-1, (3, self.heads, -1))  # [B,M,3hd] -> [B,M,3,h,d]
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # [B,M,3,h,d] -> [B,h,M,d] each
        attended = scaled_dot_product_attention(query, key, value, is_causal=causal, scale=self.scale)
        return self.output(attended.transpose(1, 2).flatten(2)), Cache(key, value)  # [B,h,M,d] -> [B,M,W]


class CrossAttention(nn.Module):
    """Attention of all hypotheses of an image to its memory."""

    def __init__(self, query: nn.Linear, key_value: nn.Linear, output: nn.Module, heads: int, scale: float) -> None:
        """`query` maps [...,W] to [...,hd], `key_value` the memory to keys and values side by side [...,2hd]."""
        super().__init__()
        self.query, self.key_value, self.output, self.heads, self.scale = query, key_value, output, heads, scale

    def remember(self, memory: Tensor) -> Cache:
        """Compute the keys and values of `memory` [B,M,D], [B,h,M,d] each."""
        projected = self.key_value(memory).unflatten(-1, (2, self.heads, -1))  # [B,M,2hd] -> [B,M,2,h,d]
        keys, values = projected.permute(2, 0, 3, 1, 4)  # [B,M,2,h,d] -> [B,h,M,d] each
        return Cache(keys, values)

    def forward(self, x: Tensor, image: Cache) -> tuple[Tensor, Tensor]:
        """Attend from `x` [B,K,W] -> [B,K,W] and the weights averaged over heads [B,K,M]."""
        query = (self.query(x) * self.scale).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B,K,W] -> [B,h,K,d]
        weights = (query @ image.keys.transpose(-2, -1)).softmax(-1)  # [B,h,K,d] x [B,h,d,M] -> [B,h,K,M]
        seen = (weights @ image.values).transpose(1, 2).flatten(2)  # [B,h,K,M] x [B,h,M,d] -> [B,K,W]
        return self.output(seen), weights.mean(1)  # [B,h,K,M] -> [B,K,M]


class Layer(nn.Module):
    """Self-attention, cross-attention where there is one, and feed-forward, each with a residual and a norm."""

    def __init__(
        self,
        words: SelfAttention,
        image: CrossAttention | None,
        feed_forward: nn.Module,
        norms: Sequence[nn.Module],
        *,
        norm_first: bool,
    ) -> None:
        """`norms` are those of the parts, in order. `norm_first` norms a part's input instead of its residual's sum."""
        super().__init__()
        self.words, self.image, self.feed_forward = words, image, feed_forward
        self.norms, self.norm_first = nn.ModuleList(norms), norm_first

    def _given(self, part: int, x: Tensor) -> Tensor:
        return self.norms[part](x) if self.norm_first else x

    def _added(self, part: int, x: Tensor, made: Tensor) -> Tensor:
        return x + made if self.norm_first else self.norms[part](x + made)

    def forward(
        self, x: Tensor, parents: Tensor, words: Cache, image: Cache | None, bias: Tensor | None
    ) -> tuple[Tensor, Cache, Tensor | None]:
        """Run one word, `x` [B,K,W] -> [B,K,W], the words' caches, and the attention to the image [B,K,M]."""
        prefix = image if self.image is None else None
        attended, words, weights = self.words(self._given(0, x), parents, words, prefix, bias)
        x = self._added(0, x, attended)
        if self.image is not None and image is not None:
            seen, weights = self.image(self._given(1, x), image)
            x = self._added(1, x, seen)
        return self._added(-1, x, self.feed_forward(self._given(-1, x))), words, weights

    def prefix(self, x: Tensor, *, causal: bool) -> tuple[Tensor, Cache]:
        """Run a prefix, `x` [B,M,W] -> [B,M,W] and its keys and values."""
        attended, made = self.words.prefix(self._given(0, x), causal=causal)
        x = self._added(0, x, attended)
        return self._added(-1, x, self.feed_forward(self._given(-1, x))), made


class ImportedDecoder(nn.Module, ABC):
    """A decoder of transformers: its layers, what precedes them and what follows."""

    def __init__(self, layers: Sequence[Layer], positions: int) -> None:
        """`positions` is the number of words and prefix tokens that have a position embedding; 0: any number."""
        super().__init__()
        self.layers: Any = nn.ModuleList(layers)  # of Layer, which torch's type does not say
        self.positions = positions

    @abstractmethod
    def embed(self, tokens: Tensor, place: Tensor) -> Tensor:
        """Embed `tokens` [B,K], all at position `place` [1] -> [B,K,W]."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Predict the next word, `x` [B,K,W] -> logits [B,K,V]."""

    def word_bias(self, count: int) -> Tensor | None:
        """Return what the newest of `count` words adds to its attention scores, [h,count]; None where nothing."""
        return None

    def forward(
        self, tokens: Tensor, parents: Tensor, words: Sequence[Cache], images: Sequence[Cache], *, start: int
    ) -> tuple[Tensor, Tensor, list[Cache]]:
        """Run one word: `tokens`, `parents` [B,K] -> logits [B,K,V], attention [B,K,M], and the caches with that word.

        `words` and `images` are the caches of each layer, `start` the position of the first word. The attention to the
        image is the mean over the layers.
        """
        said = words[0].keys.shape[3]
        place = torch.arange(start + said, start + said + 1, device=tokens.device)  # [1]
        if self.positions:  # a caption may be longer than the decoder has positions for: its last one stays
            place = place.clamp(max=self.positions - 1)
        x, bias = self.embed(tokens, place), self.word_bias(said + 1)
        grown, weights = [], []
        for layer, cache, image in zip(self.layers, words, images, strict=True):
            x, made, looked = layer(x, parents, cache, image, bias)
            grown.append(made)
            weights.append(looked)
        return self.logits(x), torch.stack(weights).mean(0), grown  # layers x [B,K,M] -> [B,K,M]


def joined(*layers: nn.Linear) -> nn.Linear:
    """Return one linear layer whose outputs are those of `layers` side by side; a missing bias is 0."""
    weight = torch.cat(tuple(layer.weight for layer in layers))  # n x [O,I] -> [nO,I]
    biases: list[Tensor] = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers
    ]
    return linear(weight, torch.cat(biases))


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear layer of `weight` [O,I] and `bias` [O]."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made
