"""The decoder of *Show, Attend and Tell*, soft attention (Xu et al. 2015, arXiv 1502.03044, sections 3.1.2 and 4.2).

The symbols of the paper: a_i a cell of the grid (`memory`), h_t and c_t the LSTM's state, z_t the context vector,
beta_t the gate, E the embedding, L_o, L_h, L_z the deep output layer of equation 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captionkit.models.attention import AdditiveAttention


@dataclass(frozen=True)
class ShowAttendTellConfig:
    """Sizes of the decoder."""

    name: str = "show-attend-tell"
    #: width of the word embedding
    embedding: int = 512
    #: width of the LSTM
    hidden: int = 512
    #: width of the attention's hidden layer
    attention: int = 256
    #: share of units dropped at the embedding and before the output layer while training
    dropout: float = 0.3


class Packed(NamedTuple):
    """Captions to teach with, without padding: sorted by length, longest first, then word by word.

    `tokens` [P] are all first words, then all second words and so on; `sizes` says how many captions have a first, a
    second, ... word; `image_of` [N] is the row of each caption's picture in the memory. The layout is that of
    `torch.nn.utils.rnn.PackedSequence`.
    """

    tokens: Tensor
    sizes: list[int]
    image_of: Tensor


class Decoded(NamedTuple):
    """What a decoder answers to `Packed`: logits [P,V] and, per caption, each cell's summed attention [N,G]."""

    logits: Tensor
    coverage: Tensor


class ShowAttendTell(nn.Module):
    """LSTM with attention; see the module's docstring for the paper's symbols."""

    def __init__(self, config: ShowAttendTellConfig, memory: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, config.embedding)
        self.attention = AdditiveAttention(memory, config.hidden, config.attention)
        self.init_h = nn.Linear(memory, config.hidden)
        self.init_c = nn.Linear(memory, config.hidden)
        self.gate = nn.Linear(config.hidden, 1)
        self.from_word = nn.Linear(config.embedding, 4 * config.hidden)
        self.from_hidden = nn.Linear(config.hidden, 4 * config.hidden, bias=False)
        self.from_context = nn.Linear(memory, 4 * config.hidden, bias=False)
        self.output_h = nn.Linear(config.hidden, config.embedding)
        self.output_z = nn.Linear(memory, config.embedding, bias=False)
        self.output = nn.Linear(config.embedding, vocabulary)
        self.dropout = nn.Dropout(config.dropout)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.orthogonal_(self.from_hidden.weight)
        nn.init.zeros_(self.output.bias)
        hidden = self.from_hidden.in_features
        # A forget gate that starts open lets early gradients reach the picture (Jozefowicz et al. 2015).
        nn.init.constant_(self.from_word.bias[hidden : 2 * hidden], 1.0)

    def _start(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        mean = memory.mean(1, keepdim=True)  # [B,G,D] -> [B,1,D]
        return self.init_h(mean).tanh(), self.init_c(mean).tanh()  # each [B,1,H]

    def _advance(
        self, words: Tensor, h: Tensor, c: Tensor, keys: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One word further: `words` [B,K,4H] (embedded), `h`, `c` [B,K,H] -> h, c, z [B,K,D], attention [B,K,G]."""
        context, attention = self.attention(h, keys, memory)  # [B,K,D], [B,K,G]
        context = self.gate(h).sigmoid() * context  # beta_t z_t
        gates = words + self.from_hidden(h) + self.from_context(context)  # [B,K,4H]
        i, f, g, o = gates.chunk(4, dim=-1)  # each [B,K,H]
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, c, context, attention

    def _logits(self, embedded: Tensor, h: Tensor, z: Tensor) -> Tensor:
        """Deep output, equation 7: L_o (E y + L_h h + L_z z), [...,V]."""
        return self.output(self.dropout(embedded + self.output_h(self.dropout(h)) + self.output_z(z)))

    def decode(self, memory: Tensor, captions: Packed) -> Decoded:
        """Teacher forcing: `memory` [B,G,D] and the words of N captions -> what comes after each word."""
        embedded = self.dropout(self.embedding(captions.tokens))  # [P] -> [P,E]
        words = self.from_word(embedded).split(captions.sizes)  # L times [n,4H]
        keys, memory, h, c = self._fan_out(memory, captions.image_of)
        hs, zs, attended = [], [], []
        for n, word in zip(captions.sizes, words, strict=True):
            h, c, z, attention = self._advance(word.unsqueeze(1), h[:n], c[:n], keys[:n], memory[:n])
            hs.append(h.squeeze(1))  # [n,1,H] -> [n,H]
            zs.append(z.squeeze(1))  # [n,1,D] -> [n,D]
            attended.append(attention.squeeze(1).float())  # [n,1,G] -> [n,G]
        logits = self._logits(embedded, torch.cat(hs), torch.cat(zs))  # [P,V]
        return Decoded(logits, _sum_per_caption(torch.cat(attended), captions.sizes))

    def _fan_out(self, memory: Tensor, image_of: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys, memory and first state per caption, each computed once per picture: [B,...] -> [N,...]."""
        h, c = self._start(memory)
        return tuple(x.index_select(0, image_of) for x in (self.attention.keys(memory), memory, h, c))

    def begin(self, memory: Tensor) -> dict[str, Tensor]:
        """What decoding of pictures needs: "memory.*" stays as it is, "state.*" goes from step to step."""
        h, c = self._start(memory)
        return {"memory.keys": self.attention.keys(memory), "memory.grid": memory, "state.h": h, "state.c": c}

    def step(
        self, tokens: Tensor, parents: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """`tokens`, `parents` [B,K] -> logits [B,K,V], attention [B,K,G], the next "state.*"."""
        h, c = (_take(state[name], parents) for name in ("state.h", "state.c"))  # [B,K',H] -> [B,K,H]
        embedded = self.embedding(tokens)  # [B,K] -> [B,K,E]
        h, c, z, attention = self._advance(self.from_word(embedded), h, c, state["memory.keys"], state["memory.grid"])
        return self._logits(embedded, h, z), attention, {"state.h": h, "state.c": c}


def _sum_per_caption(packed: Tensor, sizes: list[int]) -> Tensor:
    """Sums packed rows over the words of each caption: [P,G] -> [N,G]."""
    caption_of = torch.cat([torch.arange(n, device=packed.device) for n in sizes])  # [P]
    return packed.new_zeros(sizes[0], packed.shape[1]).index_add(0, caption_of, packed)


def _take(state: Tensor, parents: Tensor) -> Tensor:
    """The state of each hypothesis' parent: `state` [B,K',H], `parents` [B,K] -> [B,K,H]."""
    return state.gather(1, parents.unsqueeze(-1).expand(-1, -1, state.shape[-1]))  # [B,K] -> [B,K,H]
