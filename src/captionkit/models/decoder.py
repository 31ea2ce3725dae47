"""Decoders, from feature grid to words: the base class and the code that all decoders share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class PackedCaptions(NamedTuple):
    """Captions for teacher forcing, packed without padding: sorted by length, longest first.

    `tokens` [P] holds all first words, then all second words and so on. `sizes` is the number of captions that have a
    first, a second, ... word. `image_index` [N] is the row of each caption's image in the memory. The layout is that of
    `torch.nn.utils.rnn.PackedSequence`.
    """

    tokens: Tensor
    sizes: list[int]
    image_index: Tensor

    def to(self, device: torch.device) -> PackedCaptions:
        """Return the captions on `device`."""
        tokens, image_index = (part.to(device, non_blocking=True) for part in (self.tokens, self.image_index))
        return PackedCaptions(tokens, self.sizes, image_index)


class AuxiliaryLoss(NamedTuple):
    """What a decoder adds to the training objective, besides the cross-entropy of its words."""

    #: terms by name, as sums over words; the recipe has a weight for each
    terms: dict[str, Tensor]
    #: what `Decoder.update_statistics` needs; sums over words, so that micro-batches and processes add up, [S]
    statistics: Tensor


class AuxiliaryRecord(Protocol):
    """What a decoder noted while it decoded, and computes its own loss from."""

    def loss(self, log_probs: Tensor) -> AuxiliaryLoss:
        """Compute the loss from the log-probabilities [P] of the reference words, without a gradient."""


class Decoded(NamedTuple):
    """A decoder's output for `PackedCaptions`: logits [P,V] and, per caption, the attention summed over words [N,G].

    `coverage` is None for decoders without learned attention, `auxiliary` for decoders without a loss of their own.
    `evidence` [B,V] is that of the images for each word, of a model with a concept head.
    """

    logits: Tensor
    coverage: Tensor | None
    auxiliary: AuxiliaryRecord | None = None
    evidence: Tensor | None = None


class Decoder(nn.Module, ABC):
    """Base class of decoders. Sizes: B images, G cells, D memory, N captions, P words, K beams, V vocabulary."""

    #: of the words, by token id
    embedding: nn.Embedding
    #: number S of the statistics in its `AuxiliaryLoss`; 0 for a decoder without one
    statistics = 0

    @abstractmethod
    def decode(self, memory: Tensor, captions: PackedCaptions) -> Decoded:
        """Run teacher forcing: `memory` [B,G,D] and the words of N captions -> predictions of the word after each."""

    @abstractmethod
    def begin(self, memory: Tensor) -> dict[str, Tensor]:
        """Return the initial decoding state of `memory` [B,G,D].

        Entries "memory.*" [B,...] are constant and shared by all beams; `step` updates entries "state.*" [B,1,...].
        """

    @abstractmethod
    def step(
        self, tokens: Tensor, parents: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Decode one word: `tokens`, `parents` [B,K] -> logits [B,K,V], attention [B,K,G], new "state.*" [B,K,...]."""

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks that `decode` runs in sequence, if any; the trainer may checkpoint or compile each separately."""
        return []

    def add_position(self, memory: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """Add position information to `memory` [B,G,D] of a `grid` of rows and columns; by default none."""
        return memory

    def update_statistics(self, sums: Tensor) -> None:
        """Update what a decoder tracks over training steps, from the sums of `statistics` [S] over a whole step."""

    def set_dropout(self, share: float) -> None:
        """Set the probability of all dropout layers to `share`."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share


class Padding:
    """Conversion of packed words [P,...] to a padded tensor with a row per caption [N,L,...], and back.

    `sizes` are those of `PackedCaptions`: N is the first entry, L the number of entries.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.captions, self.length = sizes[0], len(sizes)
        places = torch.cat([torch.arange(n) * self.length + t for t, n in enumerate(sizes)])  # [P]
        self._places = places.to(device)
        #: index of the caption that each word belongs to, [P]
        self.caption = self._places.div(self.length, rounding_mode="floor")
        #: position of each word in its caption, from 0, [P]
        self.word = self._places % self.length

    def pad(self, packed: Tensor) -> Tensor:
        """Pad [P,...] -> [N,L,...], with zeros after the end of each caption."""
        table = packed.new_zeros(self.captions * self.length, *packed.shape[1:])
        return table.index_copy(0, self._places, packed).unflatten(0, (self.captions, self.length))

    def pack(self, table: Tensor) -> Tensor:
        """Pack [N,L,...] -> [P,...]."""
        return table.flatten(0, 1).index_select(0, self._places)

    def sum(self, packed: Tensor) -> Tensor:
        """Sum over the words of each caption, [P,G] -> [N,G]."""
        return packed.new_zeros(self.captions, packed.shape[1]).index_add(0, self.caption, packed)


def reorder(state: Tensor, parents: Tensor) -> Tensor:
    """Select the state of each hypothesis' parent: `state` [B,K',...], `parents` [B,K] -> [B,K,...]."""
    first = torch.arange(state.shape[0], device=state.device).unsqueeze(1) * state.shape[1]  # [B,1]
    rows = (first + parents).flatten()  # [B,1] + [B,K] -> [B*K]
    return state.flatten(0, 1).index_select(0, rows).unflatten(0, parents.shape)  # [B*K',...] -> [B*K,...] -> [B,K,...]


def lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Run one LSTM step from gate pre-activations: `gates` [...,4H], in torch's order, `c` [...,H] -> h, c."""
    i, f, g, o = gates.chunk(4, dim=-1)  # each [...,H]
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def open_forget_gate(bias: Tensor) -> None:
    """Set the forget gate's part of an LSTM's `bias` [4H] to 1, so early gradients pass (Jozefowicz et al. 2015)."""
    hidden = len(bias) // 4
    nn.init.constant_(bias[hidden : 2 * hidden], 1.0)
