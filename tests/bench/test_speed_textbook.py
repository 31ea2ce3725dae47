"""The textbook captioner that captionkit's speed is compared with: it must be the real thing."""

from __future__ import annotations

from itertools import product

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from textbook import Captioner, Encoder  # noqa: E402

STEPS = 6


def tiny(seed: int = 0, *, vocabulary: int = 30) -> Captioner:
    torch.manual_seed(seed)
    encoder = Encoder(depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), grid=3)
    sizes = {"features": 16, "embedding": 8, "hidden": 12, "attention": 6}
    model = Captioner(encoder, **sizes, vocabulary=vocabulary).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)  # or all words would be about as likely
    return model


def image(seed: int) -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_its_encoder_is_resnet_101_pooled_to_14_x_14() -> None:
    with torch.device("meta"):
        encoder = Encoder().eval()
        grid = encoder(torch.zeros(1, 3, 256, 256))
    assert grid.shape == (1, 14 * 14, 2048)
    # torchvision's resnet101 has 44,549,160, of which its head of 1,000 classes has 2,049,000.
    assert sum(p.numel() for p in encoder.parameters()) == 44_549_160 - 2_049_000


def test_shapes_and_attention() -> None:
    model = tiny()
    with torch.no_grad():
        features, projected, h, c = model.start(image(0))
        assert features.shape == (1, 9, 16) and projected is None and h.shape == c.shape == (1, 12)
        context, alpha = model.attention(features.expand(4, -1, -1), h.expand(4, -1))
        assert context.shape == (4, 16) and alpha.shape == (4, 9)
        torch.testing.assert_close(alpha.sum(1), torch.ones(4))
        log_probs, h, c = model.step(torch.zeros(1, dtype=torch.long), features, None, h, c)
    assert log_probs.shape == (1, 30) and h.shape == c.shape == (1, 12)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(1))


def test_a_beam_of_one_is_greedy() -> None:
    captions = set()
    for seed in range(5):
        model = tiny(seed)
        caption = model.greedy(image(seed), STEPS)
        assert caption == model.beam_search(image(seed), 1, STEPS)
        captions.add(tuple(caption))
    assert len(captions) == 5


def test_a_beam_of_all_words_finds_the_best_pair() -> None:
    model = tiny(vocabulary=5)
    picture = image(1)

    @torch.no_grad()
    def score(words: tuple[int, ...]) -> float:
        features, projected, h, c = model.start(picture)
        before, total = 0, 0.0
        for word in words:
            log_probs, h, c = model.step(torch.tensor([before]), features, projected, h, c)
            total, before = total + float(log_probs[0, word]), word
        return total

    assert model.beam_search(picture, 5, 2) == list(max(product(range(5), repeat=2), key=score))


def test_projecting_the_grid_once_tells_the_same() -> None:
    model = tiny(3)
    again = model.beam_search(image(3), 3, STEPS)
    model.project_once = True
    assert model.beam_search(image(3), 3, STEPS) == again and len(again) == STEPS
