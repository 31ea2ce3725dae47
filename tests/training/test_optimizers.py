"""Optimizers and schedules: each learns, keeps its groups, and goes on from a checkpoint bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch
from safetensors.torch import load_file
from torch import nn

from captionkit.data.run_files import LAST
from captionkit.errors import RecipeError
from captionkit.training import run_setup
from captionkit.training.config.schema import OptimizerRecipe
from captionkit.training.optim import optimizers
from captionkit.training.optim.muon import orthogonal
from captionkit.training.optim.optimizers import check_optimizer, hidden_matrices, make_optimizer
from captionkit.training.optim.schedule import lr_multiplier, rates, set_rates
from captionkit.training.run.checkpoint import load_checkpoint, save_checkpoint
from captionkit.training.run.progress import Progress
from captionkit.training.run.run_dir import RunFolder
from captionkit.training.run_setup import prepare
from captionkit.training.trainer import train
from shapes import make_recipe, make_shapes

#: rates that suit a tiny model
RATES = {"adamw": 1e-2, "sgd": 0.05, "adafactor": 0.03, "lion": 5e-3, "muon": 2e-2}


def available(name: str) -> bool:
    try:
        check_optimizer(name)
    except RecipeError:
        return False
    return True


NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(not available(name), reason="this environment has none"))
    for name in RATES
]


pytestmark = pytest.mark.usefixtures("alone")


class Tiny(nn.Module):
    """Parameters under the names that the groups go by: matrices, vectors, an embedding, a layer of words, a filter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 6))
        self.encoder.stages = list(self.encoder)
        self.decoder = nn.ModuleDict({"embedding": nn.Embedding(5, 6), "layer": nn.Linear(6, 6)})
        self.decoder["score"] = nn.Linear(6, 1, bias=False)
        self.decoder["output"] = nn.Linear(6, 5)

    def forward(self, images: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """[B,1,2,2] and [B] -> [B,5]."""
        state = torch.tanh(self.decoder["layer"](self.encoder(images) + self.decoder["embedding"](words)))  # [B,6]
        return self.decoder["output"](state * torch.sigmoid(self.decoder["score"](state)))


def learn(model: Tiny, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    images, words = torch.randn(10, 1, 2, 2, generator=generator), torch.randint(5, (10,), generator=generator)
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(images, words), words.roll(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_every_optimizer_of_the_recipe_is_tried_here() -> None:
    assert set(get_args(get_type_hints(OptimizerRecipe)["name"])) == set(RATES)


@pytest.mark.parametrize("name", NAMES)
def test_each_learns_a_small_problem_by_heart(name: str) -> None:
    model = Tiny()
    recipe = OptimizerRecipe(name=name, lr_decoder=RATES[name], lr_encoder=RATES[name], weight_decay=0)
    losses = learn(model, make_optimizer(model, recipe), 300)
    assert losses[0] > 1.4 and losses[-1] < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_groups_have_their_rates_and_vectors_and_embeddings_no_decay(name: str) -> None:
    model = Tiny()
    recipe = OptimizerRecipe(name=name, lr_decoder=0.2, lr_encoder=0.1, weight_decay=0.5, warmup=2)
    optimizer = make_optimizer(model, recipe)
    of = {p: group for group in optimizer.param_groups for p in group["params"]}
    for parameter_name, parameter in model.named_parameters():
        group = of[parameter]
        assert group["base_lr"] == (0.1 if parameter_name.startswith("encoder") else 0.2)
        plain = parameter.ndim == 1 or "embedding" in parameter_name
        assert group["weight_decay"] == (0.0 if plain else 0.5)
    set_rates(optimizer, 0, 10, recipe)
    assert rates(optimizer) == {"lr_encoder": 0.05, "lr_decoder": 0.1}


def test_muon_takes_the_matrices_of_hidden_layers() -> None:
    model = Tiny()
    names = {name for name, p in model.named_parameters() if p in hidden_matrices(model)}
    assert names == {"encoder.2.weight", "decoder.layer.weight"}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
@pytest.mark.parametrize("native", [True, False])
def test_muon_and_adamw_move_weights_as_each_does_alone(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "computes_in_bf16", lambda: native)
    ours, theirs = Tiny(), Tiny()
    recipe = OptimizerRecipe(name="muon", lr_decoder=0.02, lr_encoder=0.02, weight_decay=0.1)
    learn(ours, make_optimizer(ours, recipe), 5)
    matrices = hidden_matrices(theirs)
    rest = [p for p in theirs.parameters() if p not in matrices]
    decayed = {p for name, p in theirs.named_parameters() if p.ndim > 1 and "embedding" not in name}
    muon = torch.optim.Muon(list(matrices), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": [p], "weight_decay": 0.1 if p in decayed else 0.0} for p in rest]
    adamw = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.98))

    class Both:
        def zero_grad(self) -> None:
            theirs.zero_grad()

        def step(self) -> None:
            muon.step()
            adamw.step()

    learn(theirs, Both(), 5)  # type: ignore[arg-type]
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        # torch's is in bfloat16 always
        torch.testing.assert_close(one, other, rtol=1e-6 if native else 2e-2, atol=1e-7 if native else 1e-2)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_orthogonal_keeps_the_singular_vectors(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = u.T @ orthogonal(matrix) @ v.T
    torch.testing.assert_close(values, torch.diag(values.diagonal()), rtol=0, atol=1e-4)
    assert values.diagonal().min() > 0.3 and values.diagonal().max() < 1.3


def test_muon_goes_on_with_what_was_loaded_into_it() -> None:
    """Accelerate loads an optimizer's own state into it, which exchanges its groups."""
    one, other = Tiny(), Tiny()
    recipe = OptimizerRecipe(name="muon", lr_decoder=0.02, lr_encoder=0.02)
    first, second = make_optimizer(one, recipe), make_optimizer(other, recipe)
    second.load_state_dict(second.state_dict())
    for optimizer in (first, second):
        set_rates(optimizer, 0, 10, recipe)
    assert learn(one, first, 4) == learn(other, second, 4)
    assert all(len(second.state[p]) for p in other.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_on_from_a_checkpoint_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    recipe = OptimizerRecipe(name=name, lr_decoder=RATES[name], lr_encoder=RATES[name] / 2, weight_decay=0.1)
    one = Tiny().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(one, recipe)
    learn(one, optimizer, 3)
    save_checkpoint(tmp_path / "last", Progress(step=3), "mine", {"model": one}, optimizer)
    other = Tiny().to(memory_format=torch.channels_last)
    taken_up = make_optimizer(other, recipe)
    learn(other, taken_up, 1)  # whatever was there before goes
    load_checkpoint(tmp_path / "last", "mine", {"model": other}, taken_up)
    assert learn(one, optimizer, 4) == learn(other, taken_up, 4)
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs) and optimizer.state[ours].keys() == taken_up.state[theirs].keys()
        for key, value in optimizer.state[ours].items():
            assert torch.equal(value, taken_up.state[theirs][key])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_taken_up_ends_with_the_same_bits(
    name: str, data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "optimizer.name": name,
        "optimizer.lr_decoder": RATES[name] / 3,
        "optimizer.lr_encoder": RATES[name] / 30,
        "optimizer.schedule": "linear",
        "optimizer.weight_decay": 0.1,
        "encoder.train": "all",
        "trainer.checkpoint_every": 0,
    }
    recipe = make_recipe(backbone, changes)
    alone = train(data, tmp_path / "alone", recipe)
    assert alone.steps == 6

    original = RunFolder.record

    def killed(self: RunFolder, row: dict) -> None:
        if row["step"] == 6:
            raise KeyboardInterrupt
        original(self, row)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "killed", recipe)
    train(data, tmp_path / "killed", resume=True)
    ours, theirs = (load_file(tmp_path / run / LAST) for run in ("killed", "alone"))
    assert ours.keys() == theirs.keys() and any(key.startswith("optimizer/") for key in ours)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_is_not_to_be_had_is_refused_before_any_work(
    data: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread: Callable[[Path], None] = lambda _: pytest.fail("the data were read first")  # noqa: E731
    monkeypatch.setattr(run_setup, "open_dataset", unread)
    monkeypatch.delattr(torch.optim, "Adafactor", raising=False)
    message = r"optimizer\.name = 'adafactor': needs torch 2\.5 or later, .*; take 'adamw'"
    with pytest.raises(RecipeError, match=message) as caught:
        prepare(make_recipe(backbone, {"optimizer.name": "adafactor"}), data)
    assert "\n" not in str(caught.value)


def test_schedules() -> None:
    line = [lr_multiplier(step, 110, 10, 0.1, "linear") for step in range(110)]
    flat = [lr_multiplier(step, 110, 10, 0.1, "constant") for step in range(110)]
    assert line[:10] == flat[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert flat[10:] == [1.0] * 100
    assert line[10:] == pytest.approx([1 - 0.9 * n / 100 for n in range(100)])


def test_some_pictures_of_the_validation_split_are_evaluated(backbone: Path, tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data", train=9, val=6)
    whole = prepare(make_recipe(backbone), data).val
    chosen = [
        prepare(make_recipe(backbone, {"data.val_images": 4, "trainer.seed": seed}), data).val for seed in (0, 0, 1)
    ]
    ids = [[example.id for example in some] for some in chosen]
    assert len(whole) == 6 and len(ids[0]) == 4 and ids[0] == ids[1] != ids[2]
    assert ids[0] == [example.id for example in whole if example.id in ids[0]]
    assert len(prepare(make_recipe(backbone, {"data.val_images": 7}), data).val) == 6
