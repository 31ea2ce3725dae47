"""The decoder of *Show and Tell* (Vinyals et al. 2015, arXiv 1411.4555): the image is the LSTM's first input.

Equations 10 to 12: x_{-1} = CNN(I) is the mean over the grid, projected linearly to the embedding's width; x_t =
W_e S_t the embedded words; p_{t+1} = LSTM(x_t). The image's step predicts no word and has no loss. The state after it
is the initial state of decoding, computed once for all beams.

In training, x_{-1} is batch-normalised (Ioffe and Szegedy 2015); at inference the norm is an affine map that can be
folded into the projection. The component that the grid means of all images share is many times larger than their
differences. Without the norm it is learned first and saturates the gates, and the decoder ignores the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionkit.models.decoder import Decoded, Decoder, PackedCaptions, lstm, open_forget_gate, reorder
from captionkit.models.decoder_config import ShowTellConfig


class ShowTell(Decoder):
    """LSTM with the image as first input; it averages all cells, so the attention it returns is 1/G everywhere."""

    def __init__(self, config: ShowTellConfig, memory_dim: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, config.embedding)
        self.picture = nn.Linear(memory_dim, config.embedding, bias=False)
        self.norm = nn.BatchNorm1d(config.embedding, affine=False)
        self.from_input = nn.Linear(config.embedding, 4 * config.hidden)
        self.from_hidden = nn.Linear(config.hidden, 4 * config.hidden, bias=False)
        self.output = nn.Linear(config.hidden, vocabulary)
        self.dropout = nn.Dropout(config.dropout)
        self._initialize()

    def _initialize(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.orthogonal_(self.from_hidden.weight)
        nn.init.zeros_(self.output.bias)
        open_forget_gate(self.from_input.bias)

    def _start(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state after the image's step, from a zero state: `memory` [B,G,D] -> h, c [B,1,H]."""
        seen = self.picture(memory.mean(1))  # [B,G,D] -> [B,D] -> [B,E]
        if self.training and len(seen) == 1:  # a batch of one has no variance: use the running statistics
            seen = functional.batch_norm(seen, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)
        else:
            seen = self.norm(seen)
        gates = self.from_input(self.dropout(seen)).unsqueeze(1)  # [B,E] -> [B,4H] -> [B,1,4H]
        return lstm(gates, torch.zeros_like(gates[..., : self.from_hidden.in_features]))

    def decode(self, memory: Tensor, captions: PackedCaptions) -> Decoded:
        embedded = self.dropout(self.embedding(captions.tokens))  # [P] -> [P,E]
        words = self.from_input(embedded).split(captions.sizes)  # L times [n,4H]
        h, c = (x.squeeze(1).index_select(0, captions.image_index) for x in self._start(memory))  # [B,1,H] -> [N,H]
        hs = []
        for n, word in zip(captions.sizes, words, strict=True):
            h, c = lstm(word + self.from_hidden(h[:n]), c[:n])  # [n,4H] -> [n,H]
            hs.append(h)
        return Decoded(self.output(self.dropout(torch.cat(hs))), None)  # [P,H] -> [P,V]

    def begin(self, memory: Tensor) -> dict[str, Tensor]:
        h, c = self._start(memory)
        cells = memory.shape[1]
        return {"memory.even": torch.full_like(memory[:, :, 0], 1 / cells), "state.h": h, "state.c": c}  # [B,G]

    def step(
        self, tokens: Tensor, parents: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        h, c = (reorder(state[name], parents) for name in ("state.h", "state.c"))  # [B,K',H] -> [B,K,H]
        inputs = self.from_input(self.embedding(tokens))  # [B,K] -> [B,K,E] -> [B,K,4H]
        h, c = lstm(inputs + self.from_hidden(h), c)
        even = state["memory.even"].unsqueeze(1).expand(-1, tokens.shape[1], -1)  # [B,G] -> [B,K,G]
        return self.output(self.dropout(h)), even, {"state.h": h, "state.c": c}
