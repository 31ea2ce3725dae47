"""Word dropout and scheduled sampling: which words a decoder is fed in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from captionkit.data.run_files import LAST
from captionkit.models.decoder import Decoded
from captionkit.training import run_setup
from captionkit.training.data.collate import Batch, collate
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.loader import batches
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.engine import distributed
from captionkit.training.objectives.scheduled_sampling import InputCorruption
from captionkit.training.train_step import TrainStep
from captionkit.training.trainer import train
from shapes import make_recipe

pytestmark = pytest.mark.usefixtures("alone")


class DecoderSpec(nn.Module):
    """Stands for a model: what it expects after a word depends on that word alone; [V,V] log-probabilities."""

    def __init__(self, expected: Tensor, *, frozen: bool = False) -> None:
        super().__init__()
        self.expected, self.encoder = expected, nn.Identity()
        self.encoder.frozen = frozen
        self.calls: list[bool] = []

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(2).transpose(1, 2)

    def forward(self, images: None, features: Tensor, captions, grid) -> Decoded:
        assert images is None and features.shape[0] == int(captions.image_index.max()) + 1
        self.calls.append(self.training or torch.is_grad_enabled())
        return Decoded(self.expected[captions.tokens], None)


@pytest.fixture(scope="module")
def prepared(data: Path, backbone: Path) -> run_setup.Setup:
    return run_setup.prepare(make_recipe(backbone), data)


def batch_of(prepared: run_setup.Setup, turns: int = 1, **changes: object) -> tuple[Batch, CaptionDataset]:
    recipe = make_recipe("mobilenet-v2", {name.replace("__", "."): value for name, value in changes.items()})
    features = np.zeros((len(prepared.train), 1, 2, 3), np.float16)
    train_set = CaptionDataset(
        prepared.train, prepared.tokenizer, recipe, prepared.preprocessing, augment=True, features=features
    )
    keys = [(turn, index) for turn in range(turns) for index in range(len(train_set))]
    return collate([train_set[key] for key in keys], features=True), train_set


def feeding_of(train_set: CaptionDataset, model: nn.Module) -> InputCorruption:
    return InputCorruption(model, train_set, (1, 2), distributed.make_accelerator("no", SimpleEncoder()))


class SimpleEncoder(nn.Module):
    """As much of a model as tells Accelerate what to expect."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("C", (), {"encoder": type("E", (), {"backbone": ""})()})()


def rows(batch: Batch) -> list[list[tuple[int, int]]]:
    """(fed word, word to predict) of each caption, read off the packing's definition."""
    pairs = iter(zip(batch.captions.tokens.tolist(), batch.targets.tolist(), strict=True))
    captions: list[list[tuple[int, int]]] = [[] for _ in range(batch.captions.sizes[0])]
    for size in batch.captions.sizes:
        for caption in captions[:size]:
            caption.append(next(pairs))
    return captions


def test_no_random_number_is_drawn_where_none_is_used(prepared: run_setup.Setup) -> None:
    batch, train_set = batch_of(prepared)
    assert batch.uniforms is None
    assert feeding_of(train_set, DecoderSpec(torch.zeros(1, 1))).corrupt(batch, 0.0) is batch
    plain = CaptionDataset(
        prepared.train, prepared.tokenizer, make_recipe("mobilenet-v2", {"data.token_dropout": 0.5}),
        prepared.preprocessing,
        augment=False,
    )  # fmt: skip
    assert collate([plain[0, 0]], features=False).uniforms is None  # what is validated on is fed as it is


def test_the_share_of_words_asked_for_is_hidden_and_none_that_begins_or_is_predicted(prepared: run_setup.Setup) -> None:
    batch, train_set = batch_of(prepared, turns=40, data__token_dropout=0.3)
    fed = feeding_of(train_set, DecoderSpec(torch.zeros(1, 1))).corrupt(batch, 0.0)
    assert torch.equal(fed.targets, batch.targets) and fed.captions.sizes == batch.captions.sizes
    hidden = 0
    for true, given in zip(rows(batch), rows(fed), strict=True):
        assert given[0][0] == true[0][0] == prepared.tokenizer.bos_id
        for (was, _), (now, _) in zip(true[1:], given[1:], strict=True):
            assert now in (was, prepared.tokenizer.unk_id)
            hidden += now != was
    words = len(batch.targets) - len(rows(batch))
    assert hidden / words == pytest.approx(0.3, abs=4 * (0.21 / words) ** 0.5)
    same = [tuple(word for word, _ in row) for row in rows(fed)][: 40 * 5]
    assert len(set(same)) > 40  # in another turn, another word of the same caption


def test_what_happens_to_a_word_depends_on_its_picture_alone(prepared: run_setup.Setup) -> None:
    _, train_set = batch_of(prepared, data__token_dropout=0.4, loss__scheduled_sampling=0.5)
    size = len(prepared.tokenizer)
    model = DecoderSpec(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))
    feeding = feeding_of(train_set, model)

    def corrupt(keys: list[tuple[int, int]]) -> dict[tuple[int, int], list[tuple[tuple[int, ...], ...]]]:
        batch = feeding.corrupt(collate([train_set[key] for key in keys], features=True), 0.5)
        found: dict[tuple[int, int], list] = {}
        for image, row in zip(batch.captions.image_index.tolist(), rows(batch), strict=True):
            found.setdefault(keys[image], []).append(tuple(row))
        return {key: sorted(captions) for key, captions in found.items()}

    together = corrupt([(turn, index) for turn in (0, 3) for index in range(12)])
    for keys in ([(3, 5)], [(0, 11), (3, 2), (0, 0)]):
        assert corrupt(keys) == {key: together[key] for key in keys}


def test_the_models_words_come_as_often_as_it_expects_them(prepared: run_setup.Setup) -> None:
    text = prepared.tokenizer
    batch, train_set = batch_of(prepared, turns=60, loss__scheduled_sampling=0.5)
    red, blue = (text.encode(word)[1] for word in ("red", "blue"))
    expected = torch.full((len(text), len(text)), -40.0)
    expected[:, red], expected[:, blue] = float(np.log(3.0)), 0.0  # three times as likely
    expected[:, [text.eos_id, *text.never_generated]] = 7.0  # likelier still, and never to be fed
    model = DecoderSpec(expected)
    fed = feeding_of(train_set, model).corrupt(batch, 0.4)
    assert model.calls == [False] and torch.equal(fed.targets, batch.targets)
    own, others = {red: 0, blue: 0}, 0
    for true, given in zip(rows(batch), rows(fed), strict=True):
        assert given[0] == true[0]
        for (was, _), (now, _) in zip(true[1:], given[1:], strict=True):
            if was not in own:  # or it could not be told whose word it is
                others += 1
                if now != was:
                    own[now] += 1
    changed = sum(own.values())
    assert changed / others == pytest.approx(0.4, abs=4 * (0.24 / others) ** 0.5)
    assert own[red] / changed == pytest.approx(0.75, abs=4 * (0.1875 / changed) ** 0.5)


def test_a_word_of_the_model_is_what_it_expects_after_the_true_word_before(prepared: run_setup.Setup) -> None:
    text = prepared.tokenizer
    batch, train_set = batch_of(prepared, loss__scheduled_sampling=1.0)
    successor = torch.roll(torch.arange(len(text)), 1)  # a word for each, as sure as can be
    successor = torch.where(successor < 4, torch.tensor(5), successor)
    expected = nn.functional.one_hot(successor, len(text)).float() * 100
    fed = feeding_of(train_set, DecoderSpec(expected)).corrupt(batch, 1.0)
    for true, given in zip(rows(batch), rows(fed), strict=True):
        for (before, _), (_, _), (now, _) in zip(true, true[1:], given[1:], strict=False):
            assert now == successor[before]


def test_the_share_rises_evenly_from_nothing_to_the_recipes(prepared: run_setup.Setup) -> None:
    _, train_set = batch_of(prepared, loss__scheduled_sampling=0.25)
    feeding = feeding_of(train_set, DecoderSpec(torch.zeros(1, 1)))
    assert [feeding.share(step, 11) for step in range(11)] == pytest.approx([0.025 * step for step in range(11)])
    assert feeding.share(0, 1) == 0


def learner_of(data: Path, backbone: Path | str, changes: dict) -> tuple[TrainStep, CaptionDataset, EpochSampler]:
    recipe = make_recipe(backbone, changes)
    made = run_setup.prepare(recipe, data)
    train_set = CaptionDataset(made.train, made.tokenizer, recipe, made.preprocessing, augment=True)
    plan = EpochSampler(len(train_set), recipe)
    return (
        TrainStep(made.model, train_set, plan, recipe, distributed.make_accelerator("no", made.model)),
        train_set,
        plan,
    )


DECODERS = {
    "soft": {},
    "hard": {"decoder.kind": "hard", "loss.doubly_stochastic_weight": 0},
    "show-tell": {"decoder.name": "show-tell", "decoder.attention": 256},
    "transformer": {
        "decoder.name": "transformer", "decoder.embedding": 512, "decoder.hidden": 512, "decoder.attention": 256,
        "decoder.size": "tiny",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("decoder", "encoder"), [("soft", "frozen"), ("hard", "all"), ("show-tell", "all"), ("transformer", "frozen")]
)
def test_at_a_share_of_nothing_it_is_plain_teaching_bit_for_bit(
    data: Path, backbone: Path, decoder: str, encoder: str
) -> None:
    """And above, it is not: norms of a trained encoder move once all the same."""
    common = {
        **DECODERS[decoder],
        "encoder.train": encoder,
        "image.random_resized_crop_scale": 0.7,
        "trainer.epochs": 1,
    }
    found = {}
    for share in (None, 1e-9, 1.0):
        changes = common if share is None else {**common, "loss.scheduled_sampling": share}
        learner, train_set, plan = learner_of(data, backbone, changes)
        stream = batches(train_set, plan, 0, 0)
        lost = [learner.step(step, stream) for step in range(plan.steps)]
        assert all(loss is not None for loss in lost)
        found[share] = learner.model.state_dict()
        assert learner.model.training or encoder == "frozen"
    assert all(torch.equal(found[None][name], found[1e-9][name]) for name in found[None])
    assert not all(torch.equal(found[None][name], found[1.0][name]) for name in found[None])
    counted = [name for name in found[None] if name.endswith("num_batches_tracked")]
    assert counted and all(torch.equal(found[None][name], found[1.0][name]) for name in counted)


def test_a_frozen_encoder_looks_once_at_a_picture_that_is_taught_in_two_passes(
    data: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"image.random_resized_crop_scale": 0.7, "loss.scheduled_sampling": 1.0, "trainer.epochs": 1}
    learner, train_set, plan = learner_of(data, backbone, changes)
    looks: list[int] = []
    learner.model.encoder.register_forward_hook(lambda *_: looks.append(1))
    stream = batches(train_set, plan, 0, 0)
    for step in range(plan.steps):
        learner.step(step, stream)
    assert len(looks) == plan.steps == 3


@pytest.mark.parametrize("encoder", ["frozen", "all"])
def test_both_passes_in_sixteen_bits_teach_every_weight(
    data: Path, backbone: Path, tmp_path: Path, encoder: str
) -> None:
    changes = {"loss.scheduled_sampling": 1.0, "data.token_dropout": 0.2, "encoder.train": encoder,
               "trainer.ema_decay": 0}  # fmt: skip
    recipe = make_recipe(backbone, {**changes, "trainer.precision": "bf16", "optimizer.weight_decay": 0})
    before = {name: tensor.clone() for name, tensor in run_setup.prepare(recipe, data).model.state_dict().items()}
    train(data, tmp_path / "run", recipe)
    after = load_file(tmp_path / "run" / LAST)
    parts = ("decoder.", "neck.") if encoder == "frozen" else ("decoder.", "neck.", "encoder.")
    trained = [name for name in before if name.startswith(parts) and before[name].is_floating_point()]
    assert not [name for name in trained if torch.equal(before[name], after[f"model/{name}"])]
