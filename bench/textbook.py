"""*Show, Attend and Tell* (Xu et al. 2015, arXiv 1502.03044) as research code and tutorials write it, to compare with.

ResNet-101's grid, pooled to 14 x 14, an `nn.LSTMCell` with soft attention in a Python loop over steps, beam search over
one image at a time. As in that code, the attention module is given grid and state at every step and projects both,
and the logits come from the LSTM's state alone (not from equation 7, which would take more). `project_once` keeps the
projected grid instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """ResNet-101 without its head. `depths` and `widths` are those of its four stages."""

    def __init__(
        self,
        depths: tuple[int, ...] = (3, 4, 23, 3),
        widths: tuple[int, ...] = (256, 512, 1024, 2048),
        grid: int = 14,
    ) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        config = ResNetConfig(depths=list(depths), hidden_sizes=list(widths), embedding_size=min(64, widths[0]))
        self.resnet = ResNetModel(config)
        self.pool = nn.AdaptiveAvgPool2d(grid)

    def forward(self, images: Tensor) -> Tensor:
        """`images` [B,3,H,W] -> annotation vectors a [B,G,D]."""
        features = self.resnet(images).last_hidden_state  # [B,D,H/32,W/32]
        features = self.pool(features)  # [B,D,14,14]
        return features.flatten(2).transpose(1, 2)  # [B,G,D]


class Attention(nn.Module):
    """f_att of section 3.1.2: an MLP of a cell and the state."""

    def __init__(self, features: int, hidden: int, size: int) -> None:
        super().__init__()
        self.from_features = nn.Linear(features, size)
        self.from_hidden = nn.Linear(hidden, size)
        self.score = nn.Linear(size, 1)

    def forward(self, features: Tensor, hidden: Tensor, projected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """a [K,G,D], h [K,H] -> context z [K,D], alpha [K,G]."""
        if projected is None:
            projected = self.from_features(features)  # [K,G,A]
        state = self.from_hidden(hidden).unsqueeze(1)  # [K,1,A]
        scores = self.score(torch.tanh(projected + state)).squeeze(2)  # [K,G]
        alpha = scores.softmax(dim=1)
        context = (features * alpha.unsqueeze(2)).sum(dim=1)  # [K,D]
        return context, alpha


class Captioner(nn.Module):
    """Encoder, attention and LSTM; token 0 begins a caption."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        features: int = 2048,
        embedding: int = 512,
        hidden: int = 512,
        attention: int = 512,
        vocabulary: int = 10_000,
        project_once: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.project_once = project_once
        self.attention = Attention(features, hidden, attention)
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.cell = nn.LSTMCell(embedding + features, hidden)
        self.init_h = nn.Linear(features, hidden)
        self.init_c = nn.Linear(features, hidden)
        self.f_beta = nn.Linear(hidden, features)
        self.output = nn.Linear(hidden, vocabulary)

    def start(self, image: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """`image` [1,3,H,W] -> a [1,G,D], a projected, h, c [1,H]."""
        features = self.encoder(image)
        mean = features.mean(dim=1)
        projected = self.attention.from_features(features) if self.project_once else None
        return features, projected, torch.tanh(self.init_h(mean)), torch.tanh(self.init_c(mean))

    def step(
        self, words: Tensor, features: Tensor, projected: Tensor | None, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One word further: `words` [K] -> log-probabilities [K,V], h, c [K,H]."""
        context, _ = self.attention(features, h, projected)
        context = torch.sigmoid(self.f_beta(h)) * context  # beta_t z_t, section 4.2.1
        h, c = self.cell(torch.cat([self.embedding(words), context], dim=1), (h, c))
        return torch.log_softmax(self.output(h), dim=1), h, c

    @torch.no_grad()
    def greedy(self, image: Tensor, steps: int) -> list[int]:
        """The likeliest word, `steps` times."""
        features, projected, h, c = self.start(image)
        word = torch.zeros(1, dtype=torch.long)
        caption = []
        for _ in range(steps):
            log_probs, h, c = self.step(word, features, projected, h, c)
            word = log_probs.argmax(dim=1)
            caption.append(int(word))
        return caption

    @torch.no_grad()
    def beam_search(self, image: Tensor, beam: int, steps: int) -> list[int]:
        """The best of `beam` hypotheses of `steps` words; no word ends a caption."""
        features, projected, h, c = self.start(image)
        features = features.expand(beam, -1, -1)  # [K,G,D]
        projected = None if projected is None else projected.expand(beam, -1, -1)  # [K,G,A]
        h, c = h.expand(beam, -1), c.expand(beam, -1)  # [K,H]
        words = torch.zeros(beam, dtype=torch.long)
        captions = torch.empty(beam, 0, dtype=torch.long)
        scores = torch.zeros(beam, 1)
        for step in range(steps):
            log_probs, h, c = self.step(words, features, projected, h, c)
            totals = scores + log_probs  # [K,V]
            if step == 0:
                totals = totals[:1]  # all hypotheses are the same still
            best, places = totals.flatten().topk(beam)
            parents = torch.div(places, log_probs.shape[1], rounding_mode="floor")
            words = places % log_probs.shape[1]
            captions = torch.cat([captions[parents], words.unsqueeze(1)], dim=1)  # [K,L+1]
            h, c, scores = h[parents], c[parents], best.unsqueeze(1)
        return captions[0].tolist()
