"""Additive attention over a grid (Bahdanau et al. 2015, arXiv 1409.0473; equations 4 and 5 of arXiv 1502.03044)."""

from __future__ import annotations

from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Additive attention: e_i = v . tanh(W_a a_i + W_h h), alpha = softmax(e).

    The keys W_a a_i depend on the image only, so `keys` computes them once per image for all queries.
    """

    def __init__(self, memory_dim: int, query: int, dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(memory_dim, dim)
        self.query = nn.Linear(query, dim, bias=False)
        self.score = nn.Linear(dim, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """Compute the keys: `memory` [B,G,D] -> keys [B,G,A]."""
        return self.key(memory)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Compute the attention weights: `query` [B,K,H], `keys` [B,G,A] -> attention [B,K,G]."""
        hidden = (keys.unsqueeze(1) + self.query(query).unsqueeze(2)).tanh()  # [B,1,G,A] + [B,K,1,A] -> [B,K,G,A]
        return self.score(hidden).squeeze(-1).softmax(-1)  # [B,K,G,A] -> [B,K,G]
