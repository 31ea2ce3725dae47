"""Decoders: a grid of features becomes words. What a decoder is, and what is common to all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class PackedCaptions(NamedTuple):
    """Captions to teach with, without padding: sorted by length, longest first, then word by word.

    `tokens` [P] are all first words, then all second words and so on; `sizes` says how many captions have a first, a
    second, ... word; `image_index` [N] is the row of each caption's image in the memory. The layout is that of
    `torch.nn.utils.rnn.PackedSequence`.
    """

    tokens: Tensor
    sizes: list[int]
    image_index: Tensor

    def to(self, device: torch.device) -> PackedCaptions:
        """The captions on `device`."""
        tokens, image_index = (part.to(device, non_blocking=True) for part in (self.tokens, self.image_index))
        return PackedCaptions(tokens, self.sizes, image_index)


class HardAttentionStats(NamedTuple):
    """Where hard attention looked while it was taught; see `captionkit.models.hard_attention`."""

    #: log p(s_t | s_<t, a) of the cell sampled for each word, [P]
    log_probs: Tensor
    #: entropy of the distribution it was sampled from, in nats, [P]
    entropy: Tensor
    #: which words' cell was sampled; of the others the expected value was taken, [P]
    sampled: Tensor
    #: the moving average b of log p(y_t | s, a) before this step, []
    baseline: Tensor
    #: how many captions have a first, a second, ... word, as in `PackedCaptions`
    sizes: list[int]


class Decoded(NamedTuple):
    """What a decoder answers to `PackedCaptions`: logits [P,V] and, per caption, each cell's summed attention [N,G].

    `coverage` is None where attention is not learnt; `glimpses` is there for hard attention in training alone.
    """

    logits: Tensor
    coverage: Tensor | None
    glimpses: HardAttentionStats | None = None


class Decoder(nn.Module, ABC):
    """Base of all decoders. Sizes: B images, G cells, D memory, N captions, P words, K beams, V vocabulary."""

    @abstractmethod
    def decode(self, memory: Tensor, captions: PackedCaptions) -> Decoded:
        """Teacher forcing: `memory` [B,G,D] and the words of N captions -> what comes after each word."""

    @abstractmethod
    def begin(self, memory: Tensor) -> dict[str, Tensor]:
        """State to decode images from: "memory.*" [B,...] stays, shared by all beams; "state.*" [B,1,...] goes on."""

    @abstractmethod
    def step(
        self, tokens: Tensor, parents: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """`tokens`, `parents` [B,K] -> logits [B,K,V], attention [B,K,G], the next "state.*" [B,K,...]."""

    @property
    def blocks(self) -> list[nn.Module]:
        """The parts that teaching passes one after the other, if there are any; it may do each by itself."""
        return []

    def place(self, memory: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """`memory` [B,G,D] of a `grid` of rows and columns, with what tells its cells apart by place; here nothing."""
        return memory

    def set_dropout(self, share: float) -> None:
        """Drop this share of units while training."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share


class Padding:
    """The way from packed words [P,...] to a table with a row for each caption [N,L,...], and back.

    `sizes` are those of `PackedCaptions`: N is the first of them, L their number.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.captions, self.length = sizes[0], len(sizes)
        places = torch.cat([torch.arange(n) * self.length + t for t, n in enumerate(sizes)])  # [P]
        self._places = places.to(device)
        #: which caption each word is of, [P]
        self.caption = self._places.div(self.length, rounding_mode="floor")
        #: and the how manieth it is in it, [P]
        self.word = self._places % self.length

    def pad(self, packed: Tensor) -> Tensor:
        """[P,...] -> [N,L,...], zero behind each caption's end."""
        table = packed.new_zeros(self.captions * self.length, *packed.shape[1:])
        return table.index_copy(0, self._places, packed).unflatten(0, (self.captions, self.length))

    def pack(self, table: Tensor) -> Tensor:
        """[N,L,...] -> [P,...]."""
        return table.flatten(0, 1).index_select(0, self._places)

    def sum(self, packed: Tensor) -> Tensor:
        """The sum over the words of each caption, [P,G] -> [N,G]."""
        return packed.new_zeros(self.captions, packed.shape[1]).index_add(0, self.caption, packed)


def take(state: Tensor, parents: Tensor) -> Tensor:
    """The state of each hypothesis' parent: `state` [B,K',...], `parents` [B,K] -> [B,K,...]."""
    first = torch.arange(state.shape[0], device=state.device).unsqueeze(1) * state.shape[1]  # [B,1]
    rows = (first + parents).flatten()  # [B,1] + [B,K] -> [B*K]
    return state.flatten(0, 1).index_select(0, rows).unflatten(0, parents.shape)  # [B*K',...] -> [B*K,...] -> [B,K,...]


def lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM from the sum of its inputs: `gates` [...,4H], in torch's order, `c` [...,H] -> h, c."""
    i, f, g, o = gates.chunk(4, dim=-1)  # each [...,H]
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def open_forget_gate(bias: Tensor) -> None:
    """Start an LSTM, of `bias` [4H], with its forget gate open: early gradients pass (Jozefowicz et al. 2015)."""
    hidden = len(bias) // 4
    nn.init.constant_(bias[hidden : 2 * hidden], 1.0)
