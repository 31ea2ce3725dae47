"""Soft targets: the teachers' distributions of the next word, stored and batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class SoftLabels(NamedTuple):
    """The most probable words at each position according to the teachers."""

    ids: Tensor  # [P,T]
    shares: Tensor  # [P,T], summing to 1

    def to(self, device: torch.device) -> SoftLabels:
        """Copy to `device`."""
        return SoftLabels(*(part.to(device, non_blocking=True) for part in self))


class SoftTargets:
    """The teachers' distributions for each word of each caption.

    `table` [W,T] holds ids and probabilities of the most probable words, for the concatenated words of all captions.
    """

    def __init__(self, table: np.ndarray, tokens: Sequence[Sequence[Sequence[int]]], key: str) -> None:
        self._table, self.key = table, key
        lengths = [[len(caption) - 1 for caption in captions] for captions in tokens]
        ends = np.cumsum([0, *(length for some in lengths for length in some)])
        places = np.cumsum([0, *map(len, lengths)])
        self._starts = [ends[place : place + len(some) + 1] for place, some in zip(places, lengths, strict=False)]

    def of(self, index: int, caption: int) -> np.ndarray:
        """Return the entries [L,T] for the L words to predict of a caption of the image `index`."""
        start, end = self._starts[index][caption : caption + 2]
        return self._table[start:end]
