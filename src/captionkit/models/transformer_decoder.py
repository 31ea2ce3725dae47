"""A pre-norm transformer decoder over the grid (Vaswani et al. 2017, arXiv 1706.03762; Xiong et al. 2020, 2002.04745).

Cells have learned row and column embeddings. Words have sinusoidal position encodings (section 3.5 of Vaswani et al.),
so that captions can have any length. Input and output share one embedding (section 3.4).

The attention that is returned, and that the coverage penalty applies to, is the last layer's cross-attention to the
grid, averaged over heads. Its output reaches the predicted word through one feed-forward network only, while the
outputs of earlier layers are mixed with the previous words and attended to again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from captionkit.errors import ModelError
from captionkit.models.decoder import Decoded, Decoder, PackedCaptions, Padding, reorder
from captionkit.models.decoder_config import TransformerConfig


class Attention(nn.Module):
    """Multi-head attention, section 3.2.2 of Vaswani et al.: self-attention, or cross-attention to a memory."""

    def __init__(self, width: int, heads: int, memory_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        # No bias: it would shift all scores of a query equally, which softmax cancels.
        self.key = nn.Linear(memory_dim, width, bias=False)
        self.value = nn.Linear(memory_dim, width)
        self.output = nn.Linear(width, width)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)

    def split(self, x: Tensor) -> Tensor:
        """Split into heads: [B,L,W] -> [B,h,L,W/h]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B,L,W] -> [B,L,h,W/h] -> [B,h,L,W/h]

    def join(self, x: Tensor) -> Tensor:
        """Join the heads: [B,h,L,W/h] -> [B,L,W]."""
        return x.transpose(1, 2).flatten(2)  # [B,h,L,W/h] -> [B,L,h,W/h] -> [B,L,W]

    def weigh(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Compute equation 1 up to the softmax: `queries` [B,h,L,W/h], `keys` [B,h,G,W/h] -> [B,h,L,G]."""
        scores = queries @ keys.transpose(-2, -1)  # [B,h,L,W/h] x [B,h,W/h,G] -> [B,h,L,G]
        return (scores / math.sqrt(queries.shape[-1])).softmax(-1)


class TransformerLayer(nn.Module):
    """Pre-norm decoder layer: self-attention, cross-attention to the grid and feed-forward, each with a residual."""

    def __init__(self, config: TransformerConfig, memory_dim: int) -> None:
        super().__init__()
        width = config.width
        self.norm_words, self.norm_grid, self.norm_forward = (nn.LayerNorm(width) for _ in range(3))
        self.words = Attention(width, config.heads, width)
        self.grid = Attention(width, config.heads, memory_dim)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, image_index: Tensor, padding: Padding, *, weighed: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer for teacher forcing: words `x` [P,W] -> [P,W] and, if `weighed`, attention weights [N,L,G].

        `keys` and `values` [B,h,G,W/h] are those of the grids; `image_index` [N] is the row of each caption's grid.
        """
        x = x + self.dropout(self.words.output(self.self_attend(x, padding)))
        keys, values = (y.index_select(0, image_index) for y in (keys, values))  # [B,h,G,W/h] -> [N,h,G,W/h]
        seen, weights = self.cross_attend(padding.pad(x), keys, values, weighed=weighed)  # [P,W] -> [N,L,W], [N,L,G]
        return self.feed_forward(x, padding.pack(seen)), weights  # [N,L,W] -> [P,W]

    def self_attend(self, x: Tensor, padding: Padding) -> Tensor:
        """Run causal self-attention, `x` [P,W] -> [P,W]; padding comes after all words, so the causal mask hides it."""
        attention, normed = self.words, self.norm_words(x)
        parts = (attention.query(normed), attention.key(normed), attention.value(normed))
        queries, keys, values = (attention.split(padding.pad(part)) for part in parts)  # [P,W] -> [N,h,L,W/h]
        attended = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return padding.pack(attention.join(attended))  # [N,h,L,W/h] -> [N,L,W] -> [P,W]

    def cross_attend(self, x: Tensor, keys: Tensor, values: Tensor, *, weighed: bool) -> tuple[Tensor, Tensor | None]:
        """Attend from `x` [B,L,W] to the grid -> output [B,L,W] and, if `weighed`, mean weights of the heads [B,L,G].

        `keys` and `values` [B,h,G,W/h] are shared by all L positions.
        """
        queries = self.grid.split(self.grid.query(self.norm_grid(x)))  # [B,L,W] -> [B,h,L,W/h]
        if not weighed:
            return self.grid.join(scaled_dot_product_attention(queries, keys, values)), None
        weights = self.grid.weigh(queries, keys)  # [B,h,L,G]
        return self.grid.join(weights @ values), weights.mean(1)  # [B,L,W], [B,h,L,G] -> [B,L,G]

    def feed_forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Run the position-wise rest of the layer: `x`, cross-attention output `seen` [...,W] -> [...,W]."""
        x = x + self.dropout(self.grid.output(seen))
        inner = nn.functional.gelu(self.expand(self.norm_forward(x)))  # [...,W] -> [...,4W]
        return x + self.dropout(self.contract(self.dropout(inner)))  # [...,4W] -> [...,W]


class Transformer(Decoder):
    """Decoder that attends to the previous words and to the grid; see the module docstring."""

    def __init__(self, config: TransformerConfig, memory_dim: int, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.row_embedding = nn.Embedding(config.rows, memory_dim)
        self.column_embedding = nn.Embedding(config.columns, memory_dim)
        layers = nn.ModuleList(TransformerLayer(config, memory_dim) for _ in range(config.layers))
        self.layers: Sequence[TransformerLayer] = layers  # type: ignore[assignment]  # a ModuleList is typed as one of any modules
        self.norm = nn.LayerNorm(config.width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.dropout = nn.Dropout(config.dropout)
        self._initialize()

    def _initialize(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)  # logits of unit variance
        for table in (self.row_embedding, self.column_embedding):
            nn.init.normal_(table.weight, std=0.02)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def add_position(self, memory: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """Add row and column embeddings to `memory` [B,G,D]; None stands for the grid in training.

        Raises ModelError if `grid` does not have G cells.
        """
        rows, columns = grid or (self.config.rows, self.config.columns)
        if rows * columns != memory.shape[1]:
            raise ModelError(f"a grid of {rows} x {columns} does not have {memory.shape[1]} cells; name its shape")
        row = _resized(self.row_embedding.weight, rows).unsqueeze(1)  # [R,D] -> [R,1,D]
        column = _resized(self.column_embedding.weight, columns)  # [C,D]
        return memory + (row + column).flatten(0, 1)  # [R,1,D] + [C,D] -> [R,C,D] -> [G,D]

    def _embed(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Return scaled word embeddings plus sinusoidal position encodings: `tokens`, `places` [...] -> [...,W]."""
        width = self.config.width
        embedded = self.embedding(tokens) * math.sqrt(width)  # [...] -> [...,W]
        return self.dropout(embedded + sinusoids(places, width))

    def _logits(self, x: Tensor) -> Tensor:
        """Project to logits: [...,W] -> [...,V]."""
        return nn.functional.linear(self.norm(x), self.embedding.weight, self.bias)

    def _grids(self, memory: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each layer's keys and values of the grid, [B,G,D] -> [B,h,G,W/h]."""
        return [(a.split(a.key(memory)), a.split(a.value(memory))) for a in (layer.grid for layer in self.layers)]

    def decode(self, memory: Tensor, captions: PackedCaptions) -> Decoded:
        padding = Padding(captions.sizes, memory.device)  # only attention works on padded words
        x = self._embed(captions.tokens, padding.word)  # [P] -> [P,W]
        weights: Tensor | None = None
        for layer, (keys, values) in zip(self.layers, self._grids(memory), strict=True):
            x, weights = layer(x, keys, values, captions.image_index, padding, weighed=layer is self.layers[-1])
        assert weights is not None  # there is a last layer
        return Decoded(self._logits(x), padding.sum(padding.pack(weights).float()))  # [P,V], [P,G] -> [N,G]

    def begin(self, memory: Tensor) -> dict[str, Tensor]:
        """Return each layer's keys and values of the grid and empty word caches; see `Decoder.begin`."""
        state: dict[str, Tensor] = {}
        heads = self.config.heads
        for index, (keys, values) in enumerate(self._grids(memory)):
            state |= {f"memory.keys.{index}": keys, f"memory.values.{index}": values}
        for index in range(len(self.layers)):
            for part in ("keys", "values"):
                empty = memory.new_zeros(memory.shape[0], 1, heads, 0, self.config.width // heads)  # [B,1,h,0,W/h]
                state[f"state.{part}.{index}"] = empty
        return state

    def step(
        self, tokens: Tensor, parents: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Decode one word; the caches [B,K,h,T,W/h] of T words are reordered by `parents` and grow by one word."""
        said = state["state.keys.0"].shape[3]
        x = self._embed(tokens, torch.arange(said, said + 1, device=tokens.device))  # [B,K] -> [B,K,W]
        changed: dict[str, Tensor] = {}
        weights: Tensor | None = None
        for index, layer in enumerate(self.layers):
            caches = [f"state.{part}.{index}" for part in ("keys", "values")]
            attended, *grown = self._self_attend_cached(layer, x, parents, *(state[name] for name in caches))
            changed |= zip(caches, grown, strict=True)
            x = x + layer.dropout(layer.words.output(attended))
            keys, values = state[f"memory.keys.{index}"], state[f"memory.values.{index}"]
            seen, weights = layer.cross_attend(x, keys, values, weighed=layer is self.layers[-1])
            x = layer.feed_forward(x, seen)
        assert weights is not None  # there is a last layer
        return self._logits(x), weights, changed

    def _self_attend_cached(
        self, layer: TransformerLayer, x: Tensor, parents: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend from each newest word, `x` [B,K,W], to the words so far -> [B,K,W] and the two extended caches."""
        attention, normed = layer.words, layer.norm_words(x)
        parts = (attention.query(normed), attention.key(normed), attention.value(normed))
        # Each hypothesis attends to its own words: [B,K,W] -> [B*K,W] -> [B*K,h,1,W/h]
        query, key, value = (part.flatten(0, 1).unflatten(-1, (attention.heads, 1, -1)) for part in parts)
        keys, values = (reorder(cache, parents).flatten(0, 1) for cache in (keys, values))  # -> [B*K,h,T,W/h]
        keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)  # [B*K,h,T+1,W/h]
        attended = scaled_dot_product_attention(query, keys, values)  # [B*K,h,1,W/h]
        attended, keys, values = (y.unflatten(0, parents.shape) for y in (attended.flatten(1), keys, values))
        return attended, keys, values  # [B*K,...] -> [B,K,...]


def sinusoids(places: Tensor, width: int) -> Tensor:
    """Return sine and cosine of each position at `width` / 2 wavelengths, from 2 pi up to 10000 times that.

    `places` [...] -> [...,width].
    """
    rates = torch.arange(width // 2, device=places.device) * (-2 * math.log(10000) / width)  # [width/2]
    angles = places.unsqueeze(-1) * rates.exp()  # [...,1] * [width/2] -> [...,width/2]
    return torch.cat([angles.sin(), angles.cos()], -1)


def _resized(table: Tensor, size: int) -> Tensor:
    """Resize embeddings along one side of the grid, [S,D] -> [size,D], by linear interpolation."""
    if len(table) == size:
        return table
    return interpolate(table.T[None], size=size, mode="linear", align_corners=False)[0].T  # [S,D] -> [1,D,S] -> ...
