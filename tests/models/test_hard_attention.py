"""Hard attention: its samples, its learning rule, and its weights and baseline in training."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch
from torch import Tensor

from captionkit.models import hard_attention
from captionkit.models.decoder import Decoded, Decoder
from captionkit.models.decoder_config import ShowAttendTellConfig
from captionkit.models.hard_attention import HardAttentionStats
from captionkit.models.show_attend_tell import ShowAttendTell
from captionkit.training import run_setup, train_step
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.loader import batches
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.engine import distributed
from captionkit.training.objectives.losses import losses
from captionkit.training.train_step import TrainStep
from decoders import CAPTIONS, CELLS, WIDTH, WORDS, build, pack, unpack
from shapes import make_recipe

HARD = {"decoder.kind": "hard", "loss.doubly_stochastic_weight": 0}


@pytest.fixture
def hard(monkeypatch: pytest.MonkeyPatch) -> ShowAttendTell:
    """A decoder that samples every caption's cells."""
    monkeypatch.setattr(hard_attention, "EXPECTED", 0.0)
    decoder = build(ShowAttendTellConfig(embedding=5, hidden=7, attention=4, dropout=0, kind="hard")).float().train()
    assert isinstance(decoder, ShowAttendTell)
    assert float(decoder.baseline) == pytest.approx(-math.log(WORDS))
    return decoder


def gradient(decoder: Decoder, value: Tensor) -> dict[str, Tensor]:
    named = dict(decoder.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: torch.zeros(()) if g is None else g.double() for name, g in zip(named, found, strict=True)}


def test_the_learning_rules_mean_is_the_bounds_gradient(hard: ShowAttendTell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equation 10 over all nine ways to look at three cells for two words, and equation 12 over the same."""
    torch.manual_seed(2)
    memory, packed, targets = torch.randn(1, 3, WIDTH), pack([(0, [1, 4])]), torch.tensor([4, 2])
    hard.baseline.fill_(-1.3)
    bound, rule, without, total = torch.zeros(()), {}, {}, 0.0
    for cells in product(range(3), repeat=2):
        drawn = iter(cells)
        monkeypatch.setattr(
            hard_attention,
            "draw_cells",
            lambda attention, drawn=drawn: torch.full_like(attention[..., 0], next(drawn)).long(),
        )
        decoded = hard.decode(memory, packed)
        found = losses(decoded, targets, 0.0)
        probability = decoded.auxiliary.log_probs.sum().exp()
        bound = bound + probability * found.nats
        total += probability.item()
        for mean, value in ((rule, found.objective + found.auxiliary.terms["reward"]), (without, found.objective)):
            for name, g in gradient(hard, value).items():
                mean[name] = mean.get(name, 0) + probability.item() * g
    assert total == pytest.approx(1, abs=1e-6)
    exact = gradient(hard, bound)
    assert max(float(g.abs().max()) for g in exact.values()) > 0.1
    for name, g in exact.items():
        torch.testing.assert_close(rule[name], g, rtol=0, atol=1e-5)
    assert max(float((without[name] - g).abs().max()) for name, g in exact.items()) > 1e-2  # so that it can fail


def test_a_sampled_caption_sees_one_cell_a_word(hard: ShowAttendTell, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    memory = torch.randn(3, CELLS, WIDTH)
    looked: list[tuple[Tensor, Tensor]] = []
    original = hard_attention.Sampler.sample

    def noted(self, attention: Tensor) -> Tensor:
        looked.append((attention, original(self, attention)))
        return looked[-1][1]

    monkeypatch.setattr(hard_attention.Sampler, "sample", noted)
    stats = hard.decode(memory, pack(CAPTIONS)).auxiliary
    attention, seen = (torch.cat([step[k].flatten(0, 1) for step in looked]) for k in (0, 1))  # [P,G]
    assert stats.sampled.all() and stats.sizes == pack(CAPTIONS).sizes
    assert ((seen == 0) | (seen == 1)).all() and (seen.sum(-1) == 1).all()
    torch.testing.assert_close(stats.log_probs, (attention * seen).sum(-1).log())
    torch.testing.assert_close(stats.entropy, torch.distributions.Categorical(attention).entropy())

    monkeypatch.setattr(hard_attention, "EXPECTED", 1.0)  # all on the expected value: soft attention
    expected = hard.decode(memory, pack(CAPTIONS))
    soft = hard.eval().decode(memory, pack(CAPTIONS))
    torch.testing.assert_close(expected.logits, soft.logits)
    assert not expected.auxiliary.sampled.any() and soft.auxiliary is None
    found = losses(expected, pack(CAPTIONS).tokens, 0.0).auxiliary
    assert found.terms["reward"] == 0 and found.statistics.tolist() == [0, 0]


def test_cells_are_drawn_as_often_as_they_are_likely() -> None:
    torch.manual_seed(0)
    likely = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    drawn = hard_attention.draw_cells(likely.expand(40_000, 5))
    shares = torch.bincount(drawn, minlength=5) / 40_000
    torch.testing.assert_close(shares, likely, rtol=0, atol=0.01)  # four standard deviations
    sampled = hard_attention.Sampler(40_000, torch.zeros(()))._sampled.float().mean()
    assert sampled.item() == pytest.approx(0.5, abs=0.01)


def test_each_word_is_rewarded_by_itself_and_what_follows() -> None:
    generator = torch.Generator().manual_seed(0)
    packed = pack(CAPTIONS)
    said, chosen = (torch.rand(len(packed.tokens), generator=generator) - 2 for _ in range(2))
    sampled = torch.rand(len(said), generator=generator) < 0.7
    logits = torch.zeros(len(said), WORDS)
    logits.scatter_(1, packed.tokens[:, None], 3 * said[:, None])
    stats = HardAttentionStats(chosen, chosen.exp(), sampled, torch.tensor(-1.5), packed.sizes)
    found = losses(Decoded(logits, None, stats), packed.tokens, 0.0)
    log_probs = logits.log_softmax(-1)[range(len(said)), packed.tokens]
    assert found.coverage == 0
    by_hand = 0.0
    for values, looks, flags in zip(*(unpack(x, packed.sizes) for x in (log_probs, chosen, sampled)), strict=True):
        for t in range(len(values)):
            by_hand -= float((values[t:] + 1.5).sum() * looks[t]) * float(flags[t])
    assert found.auxiliary.terms["reward"].item() == pytest.approx(by_hand, rel=1e-4)
    assert found.auxiliary.statistics.tolist() == pytest.approx(
        [float(log_probs[sampled].sum()), float(sampled.sum())], rel=1e-5
    )
    assert -found.auxiliary.terms["entropy"].item() == pytest.approx(float(chosen.exp().sum()), rel=1e-5)


def test_the_baseline_moves_by_what_all_processes_earn(
    data: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(backbone, {**HARD, "trainer.gradient_accumulation_steps": 2, "trainer.batch_size": 6})
    made = run_setup.prepare(recipe, data)
    accelerator = distributed.make_accelerator("no", made.model)
    train_set = CaptionDataset(made.train, made.tokenizer, recipe, made.preprocessing, augment=True)
    plan = EpochSampler(len(train_set), recipe)
    learner, earned = TrainStep(made.model, train_set, plan, recipe, accelerator), []
    original = train_step.losses

    def noted(*arguments: object):
        found = original(*arguments)
        earned.append(found.auxiliary.statistics)
        return found

    monkeypatch.setattr(train_step, "losses", noted)
    others = torch.tensor([-30.0, 7.0])  # of another process
    reduce = accelerator.reduce
    monkeypatch.setattr(accelerator, "reduce", lambda t: t + others if t.ndim else reduce(t))
    before = made.model.decoder.baseline.item()
    assert learner.step(0, batches(train_set, plan, 0, 0)) is not None
    total, words = (sum(earned) + others).tolist()
    assert len(earned) == 2 and words > 7
    assert made.model.decoder.baseline.item() == pytest.approx(0.9 * before + 0.1 * total / words, rel=1e-6)
    assert torch.equal(learner.average.module.decoder.baseline, made.model.decoder.baseline)


def test_hard_attentions_weights_are_those_of_the_recipe(data: Path, backbone: Path) -> None:
    """Each term of equation 12 is there, with its weight and its sign."""

    def objective(changes: dict[str, object]) -> float:
        recipe = make_recipe(backbone, {**HARD, "loss.label_smoothing": 0, "trainer.batch_size": 12, **changes})
        made = run_setup.prepare(recipe, data)
        train_set = CaptionDataset(made.train, made.tokenizer, recipe, made.preprocessing, augment=True)
        plan = EpochSampler(len(train_set), recipe)
        learner = TrainStep(made.model, train_set, plan, recipe, distributed.make_accelerator("no", made.model))
        minimised: list[float] = []
        learner.accelerator.backward = lambda loss: minimised.append(loss.item())
        learner.step(0, batches(train_set, plan, 0, 0))
        return minimised[0]

    none = {"loss.hard_reward": 0, "loss.hard_entropy": 0}
    plain = objective(none)
    terms = {}
    for name in none:
        once, thrice = (objective({**none, name: weight}) - plain for weight in (1, 3))
        assert thrice == pytest.approx(3 * once, rel=1e-3) and abs(once) > 1e-3
        terms[name] = once
    assert -math.log(16) <= terms["loss.hard_entropy"] < 0  # entropy is rewarded; the grid has 16 cells
