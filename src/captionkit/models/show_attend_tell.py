"""The decoder of *Show, Attend and Tell* (Xu et al. 2015, arXiv 1502.03044), with soft or hard attention.

Symbols of the paper: a_i a cell of the grid (`memory`), h_t and c_t the LSTM's state, z_t the context vector, beta_t
the gate, E the embedding, L_o, L_h, L_z the deep output layer of equation 7.

Soft attention (section 4.2) uses the expected context, z_t = beta_t sum_i alpha_ti a_i. Hard attention (section 4.1) is
trained on sampled cells, see `hard_attention`. At inference it uses the expected context too, as the authors do: half
of the captions were trained that way, and decoding stays deterministic. The attention map returned is alpha in both
cases. The gate beta_t, which the paper adds for soft attention (section 4.2.1), is used for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from captionkit.models.additive_attention import AdditiveAttention
from captionkit.models.decoder import Decoded, Decoder, PackedCaptions, Padding, lstm, open_forget_gate, reorder
from captionkit.models.decoder_config import ShowAttendTellConfig
from captionkit.models.hard_attention import DECAY, Sampler

#: up to this many cells, projections cached per cell are less memory to read for each word than the weight matrices
_FEW_CELLS = 100


class ShowAttendTell(Decoder):
    """LSTM with attention; see the module docstring for the paper's symbols."""

    def __init__(self, config: ShowAttendTellConfig, memory_dim: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, config.embedding)
        self.attention = AdditiveAttention(memory_dim, config.hidden, config.attention)
        self.init_h = nn.Linear(memory_dim, config.hidden)
        self.init_c = nn.Linear(memory_dim, config.hidden)
        self.gate = nn.Linear(config.hidden, 1)
        self.from_word = nn.Linear(config.embedding, 4 * config.hidden)
        self.from_hidden = nn.Linear(config.hidden, 4 * config.hidden, bias=False)
        self.from_context = nn.Linear(memory_dim, 4 * config.hidden, bias=False)
        self.output_h = nn.Linear(config.hidden, config.embedding)
        self.output_z = nn.Linear(memory_dim, config.embedding, bias=False)
        self.output = nn.Linear(config.embedding, vocabulary)
        self.dropout = nn.Dropout(config.dropout)
        #: for hard attention: the moving average of log p(y_t | s, a), starting at that of a uniform prediction
        self.baseline: Tensor | None
        self.register_buffer("baseline", torch.tensor(-math.log(vocabulary)) if config.kind == "hard" else None)
        self.statistics = 0 if self.baseline is None else 2
        self._initialize()

    def _initialize(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.orthogonal_(self.from_hidden.weight)
        nn.init.zeros_(self.output.bias)
        open_forget_gate(self.from_word.bias)

    def _start(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        mean = memory.mean(1, keepdim=True)  # [B,G,D] -> [B,1,D]
        return self.init_h(mean).tanh(), self.init_c(mean).tanh()  # each [B,1,H]

    def _advance(
        self,
        words: Tensor,
        h: Tensor,
        c: Tensor,
        keys: Tensor,
        memory: Tensor,
        look: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run one step: `words` [B,K,4H] (projected), `h`, `c` [B,K,H] -> h, c, z [B,K,D], attention [B,K,G].

        `look` may replace the attention weights [B,K,G] by sampled cells.
        """
        attention = self.attention(h, keys)  # [B,K,G]
        context = (attention if look is None else look(attention)) @ memory  # [B,K,G] x [B,G,D] -> [B,K,D]
        context = self.gate(h).sigmoid() * context  # beta_t z_t
        h, c = lstm(words + self.from_hidden(h) + self.from_context(context), c)  # [B,K,4H] -> [B,K,H]
        return h, c, context, attention

    def _logits(self, embedded: Tensor, h: Tensor, seen: Tensor) -> Tensor:
        """Compute the deep output, equation 7: L_o (E y + L_h h + L_z z), [...,V]; `seen` is L_z z."""
        return self.output(self.dropout(embedded + self.output_h(self.dropout(h)) + seen))

    def decode(self, memory: Tensor, captions: PackedCaptions) -> Decoded:
        embedded = self.dropout(self.embedding(captions.tokens))  # [P] -> [P,E]
        words = self.from_word(embedded).split(captions.sizes)  # L times [n,4H]
        keys, memory, h, c = self._fan_out(memory, captions.image_index)
        sampler = Sampler(captions.sizes[0], self.baseline) if self.training and self.baseline is not None else None
        hs, zs, attended = [], [], []
        for n, word in zip(captions.sizes, words, strict=True):
            look = None if sampler is None else sampler.sample
            h, c, z, attention = self._advance(word.unsqueeze(1), h[:n], c[:n], keys[:n], memory[:n], look)
            hs.append(h.squeeze(1))  # [n,1,H] -> [n,H]
            zs.append(z.squeeze(1))  # [n,1,D] -> [n,D]
            attended.append(attention.squeeze(1).float())  # [n,1,G] -> [n,G]
        logits = self._logits(embedded, torch.cat(hs), self.output_z(torch.cat(zs)))  # [P,V]
        coverage = Padding(captions.sizes, logits.device).sum(torch.cat(attended))  # [P,G] -> [N,G]
        return Decoded(logits, coverage, None if sampler is None else sampler.stats())

    def update_statistics(self, sums: Tensor) -> None:
        """Move the baseline of hard attention: `sums` [2] of log p(y | s, a) over sampled words, and their number."""
        total, words = sums.unbind()
        if self.baseline is not None and words:
            self.baseline.lerp_(total / words, 1 - DECAY)

    def _fan_out(self, memory: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return keys, memory and initial state per caption, each computed once per image: [B,...] -> [N,...]."""
        h, c = self._start(memory)
        keys = self.attention.keys(memory)
        keys, memory, h, c = (x.index_select(0, image_index) for x in (keys, memory, h, c))
        return keys, memory, h, c

    def _taken(self, seen: Tensor) -> Tensor:
        """Project cells or contexts for the LSTM and the output layer: [...,D] -> [...,4H+E]."""
        takers = torch.cat([self.from_context.weight, self.output_z.weight])  # [4H,D], [E,D] -> [4H+E,D]
        return nn.functional.linear(seen, takers)

    def begin(self, memory: Tensor) -> dict[str, Tensor]:
        h, c = self._start(memory)
        # A projection of a weighted mean is the weighted mean of projections, so project the cells once per image.
        seen = self._taken(memory) if memory.shape[1] <= _FEW_CELLS else memory  # [B,G,D] -> [B,G,4H+E]
        return {"memory.keys": self.attention.keys(memory), "memory.seen": seen, "state.h": h, "state.c": c}

    def step(
        self, tokens: Tensor, parents: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        h, c = (reorder(state[name], parents) for name in ("state.h", "state.c"))  # [B,K',H] -> [B,K,H]
        embedded = self.embedding(tokens)  # [B,K] -> [B,K,E]
        attention = self.attention(h, state["memory.keys"])  # [B,K,G]
        seen = attention @ state["memory.seen"]  # [B,K,G] x [B,G,4H+E] -> [B,K,4H+E], with many cells [B,K,D]
        seen = self.gate(h).sigmoid() * seen  # beta_t z_t
        if attention.shape[2] > _FEW_CELLS:
            seen = self._taken(seen)  # [B,K,D] -> [B,K,4H+E]
        gates, output = seen.split([4 * h.shape[-1], embedded.shape[-1]], dim=-1)  # [B,K,4H], [B,K,E]
        h, c = lstm(self.from_word(embedded) + self.from_hidden(h) + gates, c)  # [B,K,4H] -> [B,K,H]
        return self._logits(embedded, h, output), attention, {"state.h": h, "state.c": c}
