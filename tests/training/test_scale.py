"""Memory and speed of training: what is recomputed and compiled, and what is said where memory runs out."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch
from safetensors.torch import load_file
from torch._dynamo.exc import TorchDynamoException

from captionkit.data.run_files import LAST
from captionkit.errors import RecipeError, TrainingError
from captionkit.training import run_setup, train_step
from captionkit.training.config.recipe import Recipe, load_recipe
from captionkit.training.data import feature_cache
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.feature_cache import cached_features
from captionkit.training.data.loader import batches
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.engine import compile
from captionkit.training.engine.distributed import make_accelerator
from captionkit.training.train_step import TrainStep
from captionkit.training.trainer import train
from tiers import slow

SOFT = {"decoder.embedding": 16, "decoder.hidden": 24, "decoder.attention": 8}
HARD = {**SOFT, "decoder.kind": "hard"}
TRANSFORMER = {"decoder.name": "transformer", "decoder.width": 16, "decoder.layers": 2, "decoder.heads": 2}


pytestmark = pytest.mark.usefixtures("alone")


def recipe_of(backbone: Path, changes: dict[str, object]) -> Recipe:
    """A recipe that trains all of a tiny model, with dropout, for three steps of four images."""
    values = {
        "data.min_freq": 1,
        "image.height": 32,
        "image.width": 32,
        "encoder.name": backbone,
        "encoder.train": "all",
        "decoder.memory": 16,
        "trainer.epochs": 1,
        "trainer.batch_size": 4,
        "optimizer.warmup": 2,
        "optimizer.lr_encoder": 1e-3,
        "trainer.log_samples": 1,
        "trainer.report": "false",
        **changes,
    }
    return load_recipe(None, {name: str(value) for name, value in values.items()})


def same_run(one: Path, other: Path) -> bool:
    left, right = load_file(one / LAST), load_file(other / LAST)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def learner_of(recipe: Recipe, data: Path) -> tuple[TrainStep, CaptionDataset]:
    made = run_setup.prepare(recipe, data)
    accelerator = make_accelerator("no", made.model)
    teach, val = (
        CaptionDataset(part, made.tokenizer, recipe, made.preprocessing, augment=part is made.train)
        for part in (made.train, made.val)
    )
    return TrainStep(made.model, teach, EpochSampler(len(teach), recipe), recipe, accelerator), val


# --- recomputing ---


@pytest.mark.parametrize(
    "changes",
    [
        {**TRANSFORMER, "trainer.gradient_accumulation_steps": 2},
        *slow({**SOFT, "encoder.train": "stages"}),
    ],
    ids=["transformer", "stages"],
)
def test_recomputing_changes_no_bit(data: Path, backbone: Path, tmp_path: Path, changes: dict) -> None:
    """Not a weight, nor a norm statistic, nor a dropout mask."""
    train(data, tmp_path / "plain", recipe_of(backbone, changes))
    train(data, tmp_path / "again", recipe_of(backbone, {**changes, "trainer.gradient_checkpointing": "true"}))
    assert same_run(tmp_path / "plain", tmp_path / "again")
    counted = [t for name, t in load_file(tmp_path / "again" / LAST).items() if name.endswith("num_batches_tracked")]
    assert any(counted)  # there are norms that learn


def test_recomputing_keeps_less(data: Path, backbone: Path) -> None:
    """Eight images' activations shrink to the stages' inputs; and what is frozen or evaluated is not recomputed."""
    changes = {**TRANSFORMER, "trainer.batch_size": 8, "image.height": 96, "image.width": 96}
    kept = []
    for recomputed in ("false", "true"):
        recipe = recipe_of(backbone, {**changes, "trainer.gradient_checkpointing": recomputed})
        kept.append(kept_bytes(learner_of(recipe, data)[0]))
    assert kept[1] < 0.5 * kept[0]


def kept_bytes(train_step: TrainStep) -> int:
    """Bytes of what a forward pass of the first batch keeps for the backward pass, weights aside."""
    model = train_step.model.train()
    weights = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    batch = next(batches(train_step.dataset, train_step.plan, 0, 0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch.images, batch.features, batch.captions, model.encoder.grid(96, 96))
    return sum(storage.nbytes() for storage in kept.values())


# --- compiling ---


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
def test_a_compiled_run_learns_the_same_under_the_same_names(data: Path, backbone: Path, tmp_path: Path) -> None:
    changes = {**TRANSFORMER, "decoder.layers": 1, "decoder.dropout": 0, "decoder.feature_dropout": 0}
    train(data, tmp_path / "plain", recipe_of(backbone, changes))
    train(data, tmp_path / "compiled", recipe_of(backbone, {**changes, "trainer.compile": "true"}))
    one, other = (load_file(tmp_path / run / LAST) for run in ("plain", "compiled"))
    assert one.keys() == other.keys()
    assert max(float((one[name].double() - other[name].double()).abs().max()) for name in one) < 1e-4


def test_compiling_calls_the_compiler_for_the_encoder_and_the_blocks_alone(
    data: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, _ = learner_of(recipe_of(backbone, TRANSFORMER), data)
    model, names = taught.model, list(taught.model.state_dict())
    compiled: list[object] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(self))
    compile.compile_parts(model)
    assert compiled == [model.encoder, *model.decoder.layers] and list(model.state_dict()) == names
    model.encoder.train_from(None)
    compiled.clear()
    compile.compile_parts(model)
    assert compiled == [*model.decoder.layers]  # what a frozen encoder makes is computed once


@pytest.mark.slow
def test_what_cannot_be_compiled_is_said_before_anything_is_done(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe_of(backbone, {**SOFT, "trainer.compile": "true"})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match=r"no C\+\+ compiler \(g\+\+, .*\); install g\+\+, or leave it out"):
        train(data, tmp_path / "run", wanted)
    monkeypatch.setenv("CXX", "nowhere-g++")
    with pytest.raises(RecipeError, match=r"\$CXX = nowhere-g\+\+"):
        train(data, tmp_path / "run", wanted)
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match=r"trainer\.compile and trainer\.gradient_checkpointing exclude each other"):
        train(
            data,
            tmp_path / "run",
            recipe_of(backbone, {"trainer.compile": "true", "trainer.gradient_checkpointing": "true"}),
        )
    monkeypatch.setattr(compile, "_COMPILERS", (sys.executable,))
    monkeypatch.delenv("CXX")

    def fails(*_: object) -> None:
        raise TorchDynamoException("backend='inductor' raised:\nCppCompileError: a long story")

    monkeypatch.setattr(train_step, "losses", fails)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)
    with pytest.raises(TrainingError, match=r"torch\.compile failed \(backend='inductor' raised:\)") as caught:
        train(data, tmp_path / "run", wanted)
    assert "\n" not in str(caught.value)


# --- where memory runs out ---


def much(kind: str) -> None:
    """Really allocate too much, or fail as a GPU does."""
    if kind == "gpu":
        raise torch.OutOfMemoryError("CUDA out of memory.\nAnd more.")
    np.empty(1 << 60, np.uint8) if kind == "numpy" else torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("kind", "where"), [("cpu", "step"), *slow(("cpu", "evaluation"), ("numpy", "step"), ("gpu", "step"))]
)
def test_out_of_memory_says_what_to_lower(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, where: str
) -> None:
    module = train_step if where == "step" else sys.modules["captionkit.training.validation"]
    monkeypatch.setattr(module, "losses", lambda *_: much(kind))
    step = 0 if where == "step" else 3
    with pytest.raises(
        TrainingError, match=rf"out of memory after step {step}; .*gradient_accumulation_steps"
    ) as caught:
        train(data, tmp_path / "run", recipe_of(backbone, SOFT))
    assert "\n" not in str(caught.value)


def test_other_errors_stay_what_they_are(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("of another kind")

    monkeypatch.setattr(train_step, "losses", fails)
    with pytest.raises(RuntimeError, match="of another kind"):
        train(data, tmp_path / "run", recipe_of(backbone, SOFT))


def test_features_are_computed_of_as_many_pictures_as_fit(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run_setup.prepare(recipe_of(backbone, {**SOFT, "encoder.train": "frozen"}), data)
    how = {"flips": False, "precision": "no", "shown": lambda items, *_: items}
    wanted, _ = cached_features(made.model.encoder.eval(), made.train, made.preprocessing, **how)
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "another"))
    encode, met = feature_cache._encode, []

    def tight(encoder, images, precision):
        met.append(len(images))
        if len(images) > most:
            much("cpu")
        return encode(encoder, images, precision)

    monkeypatch.setattr(feature_cache, "_encode", tight)
    most = 3
    found, broken = cached_features(made.model.encoder, made.train, made.preprocessing, **how)
    assert met == [12, 6, 3, 3, 6, 3, 3] and not broken
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-3)
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "third"))
    most = 0
    with pytest.raises(TrainingError, match=r"one image .*lower image\.height and image\.width"):
        cached_features(made.model.encoder, made.train, made.preprocessing, **how)
