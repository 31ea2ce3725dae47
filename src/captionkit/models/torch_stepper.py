"""Decoding with PyTorch: the Stepper protocol of captionkit.inference.search for a CaptioningModel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from captionkit.inference.search import CONCEPTS, Capability, Overview
from captionkit.inference.search.stepper import cells_of


class StepwiseModel(Protocol):
    """What decoding and export need of a network. Sizes: B images, K beams, G cells, V vocabulary."""

    def encode(self, images: Tensor) -> Tensor:
        """Compute the memory of `images` [B,3,H,W]."""

    def begin(self, memory: Tensor) -> dict[str, Tensor]:
        """Return the initial decoding state; see `Decoder.begin`."""

    def step(
        self, tokens: Tensor, parents: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Decode one more word; see `Decoder.step`. The attention [B,K,G] of a network without a map has G = 0."""

    def parameters(self) -> Iterator[Tensor]:
        """Yield the parameters."""


class TorchStepper:
    """Stepper for a model in evaluation mode; inputs and outputs are NumPy arrays."""

    takes_bytes = False
    capabilities: frozenset[Capability] = frozenset(("attention", "constraints"))

    def __init__(self, model: StepwiseModel) -> None:
        self.model = model
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def begin(self, images: np.ndarray) -> dict[str, Tensor]:
        """Encode `images` float32 [B,3,H,W] -> initial state."""
        return self.model.begin(self.model.encode(torch.from_numpy(images).to(self.device)))

    @torch.inference_mode()
    def step(
        self, tokens: np.ndarray, parents: np.ndarray, state: dict[str, Tensor], top_k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
        """Decode one word: `tokens`, `parents` int64 [B,K] -> log-probs, ids [B,K,T], attention [B,K,G], state."""
        tokens_, parents_ = (torch.from_numpy(a).to(self.device) for a in (tokens, parents))
        logits, attention, changed = self.model.step(tokens_, parents_, state)
        top = logits.float().log_softmax(-1).topk(min(top_k, logits.shape[-1]), dim=-1)  # [B,K,V] -> [B,K,T]
        log_probs, ids, maps = (x.cpu().numpy() for x in (top.values, top.indices, attention.float()))
        return log_probs, ids, maps, {**state, **changed}

    @torch.inference_mode()
    def overview(self, state: dict[str, Tensor]) -> Overview | None:
        """Return the decoder's attention keys averaged over the cells, and the evidence; see `OnnxStepper`."""
        cells = cells_of(state)
        if cells is None:
            return None
        means = cells.float().mean(-2).flatten(1)  # [B,G,D] -> [B,D], [B,heads,G,d] -> [B,heads*d]
        evidence = state.get(CONCEPTS)
        return Overview(means.cpu().numpy(), None if evidence is None else evidence.float().cpu().numpy())

    @torch.inference_mode()
    def keep(self, state: dict[str, Tensor], rows: np.ndarray) -> dict[str, Tensor]:
        """Return the state of the images `rows` [n] only."""
        index = torch.from_numpy(rows).to(self.device)
        return {name: value.index_select(0, index) for name, value in state.items()}
