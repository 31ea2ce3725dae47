"""Training, on twelve images of coloured shapes."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch
from safetensors.torch import load_file
from torch import nn

import captionkit
from captionkit.data.images import load_image
from captionkit.data.layouts import open_dataset
from captionkit.data.run_files import LAST, METRICS
from captionkit.errors import CaptionkitError, DatasetError, RecipeError, TrainingError
from captionkit.eval.evaluate import evaluate_model
from captionkit.inference.model_folder import open_model
from captionkit.inference.word_confidence import WordConfidence
from captionkit.models.decoder import Decoded
from captionkit.models.serialization import load_model
from captionkit.training import run_setup, train_step, trainer
from captionkit.training.config.schema import OptimizerRecipe
from captionkit.training.data import feature_cache
from captionkit.training.data.collate import collate
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.loader import batches
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.engine import distributed, precision
from captionkit.training.objectives.losses import losses
from captionkit.training.optim.ema import averaged
from captionkit.training.optim.schedule import lr_multiplier, parameter_groups
from captionkit.training.run import best_model
from captionkit.training.run.progress import Progress
from captionkit.training.run.run_dir import RunFolder
from captionkit.training.train_step import TrainStep
from captionkit.training.trainer import train
from captionkit.training.validation import Validation
from kept import rows, same_tensors
from sessions import launch
from shapes import PICTURES, VARIED, captions, draw, make_halves, make_recipe, make_shapes
from tiers import slow


@pytest.fixture(scope="session")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer without norms over batches, and with a pooler that no gradient reaches."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbone") / "vit"
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes, **dropout)).save_pretrained(folder)
    return folder


pytestmark = pytest.mark.usefixtures("alone")


#: a small encoder trained with the decoder, and nothing that is random in it
WHOLE = {"encoder.train": "all", "decoder.dropout": 0, "decoder.feature_dropout": 0}


def furthest(one: Path, other: Path) -> float:
    """Largest difference of a weight in two kept models."""
    left, right = (load_file(run / "best" / "model.safetensors") for run in (one, other))
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


# --- does it learn ---


@pytest.mark.slow
def test_a_model_learns_its_captions_by_heart_and_tells_them_from_its_folder(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    pytest.importorskip("onnxscript", reason="the extra `train` is not installed")
    data = make_shapes(tmp_path / "data", train=8, val=0, each=1)
    (data / "captions.json").rename(data / "captions_train.json")
    shutil.copy(data / "captions_train.json", data / "captions_val.json")
    changes = {
        "trainer.epochs": 150,
        "trainer.batch_size": 8,
        "loss.label_smoothing": 0,
        "optimizer.lr_decoder": 1e-2,
        "trainer.eval_every": 50,
        "trainer.patience": 0,
    }
    recipe = make_recipe(backbone, {**WHOLE, **changes})
    result = train(data, tmp_path / "run", recipe)
    losses_ = [row["loss"] for row in rows(result.folder, "train")]
    assert losses_[-1] < 0.1 < 1 < losses_[0]
    assert result.best_loss < 0.1 and result.best_cider > 5
    assert f"captionkit caption PHOTO --model {tmp_path / 'run' / 'best'}" in capsys.readouterr().err
    captioner = captionkit.load(result.folder / "best")
    said = [captioner.caption(draw(*picture)).text for picture in PICTURES[:8]]
    assert said == [captions(*picture)[0] for picture in PICTURES[:8]]


def test_the_training_loss_falls_and_is_recorded_everywhere(data: Path, backbone: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    result = train(
        data, run, make_recipe(backbone, {"trainer.epochs": 20, "trainer.eval_every": 5, "trainer.report": "true"})
    )
    trained, evaluated = rows(run, "train"), rows(run, "eval")
    assert [row["step"] for row in trained] == [20, 40, 60] and [row["epoch"] for row in evaluated] == [5, 10, 15, 20]
    assert trained[-1]["loss"] < trained[0]["loss"] - 0.3
    assert all(row["tokens_per_second"] > 0 and 0 < row["lr_decoder"] <= 3e-3 for row in trained)
    assert "lr_encoder" not in trained[0]  # it is frozen
    best = max(evaluated, key=lambda row: (row["cider"], -row["val_loss"]))
    assert (result.best_cider, result.best_loss, result.best_step) == (best["cider"], best["val_loss"], best["step"])
    assert result.steps == 60 and [row["best"] for row in evaluated if row["step"] == best["step"]] == [True]
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = (
        ("train/loss", trained, "loss"),
        ("eval/val_loss", evaluated, "val_loss"),
        ("eval/cider", evaluated, "cider"),
    )
    for tag, recorded, name in tags:
        assert [(e.step, e.value) for e in events.Scalars(tag)] == [
            (row["step"], pytest.approx(row[name], rel=1e-6)) for row in recorded
        ]
    for name in ("recipe.toml", "samples.html", "best/README.md", "best/config.json"):
        assert (run / name).stat().st_size > 100
    assert "black-bar.png" not in (run / "samples.html").read_text()


def word_by_word(run: Path, data: Path) -> float:
    """The validation loss without packing, without batches: one image, one caption, one word after the other."""
    folder = open_model(run / "best")
    model, text = load_model(folder), folder.tokenizer
    nats, words = 0.0, 0
    with torch.inference_mode():
        for example in open_dataset(data)["val"]:
            pixels = torch.from_numpy(load_image(example.image, folder.preprocessing))[None]
            for caption in example.captions:
                state = model.begin(model.encode(pixels))
                ids = text.encode(caption)
                for word, target in pairwise(ids):
                    logits, _, changed = model.step(torch.tensor([[word]]), torch.zeros(1, 1, dtype=torch.long), state)
                    state = {**state, **changed}
                    nats -= float(logits[0, 0].double().log_softmax(-1)[target])
                    words += 1
    return nats / words


@pytest.mark.parametrize(("changes", "tolerance"), [({}, 1e-3), *slow((WHOLE, 1e-5))])
def test_the_validation_loss_is_what_the_kept_model_has(
    data: Path, backbone: Path, tmp_path: Path, changes: dict, tolerance: float
) -> None:
    result = train(data, tmp_path / "run", make_recipe(backbone, changes))
    assert word_by_word(tmp_path / "run", data) == pytest.approx(result.best_loss, rel=tolerance)


@pytest.mark.slow
def test_the_scores_of_a_run_are_those_of_evaluating_its_model(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    pytest.importorskip("onnxscript", reason="the extra `train` is not installed")
    changes = {"trainer.epochs": 30, "optimizer.lr_decoder": 1e-2, "trainer.eval_every": 10, "data.val_split": "train"}
    result = train(data, tmp_path / "run", make_recipe(backbone, {**WHOLE, **changes}))
    row = next(row for row in rows(tmp_path / "run", "eval") if row["step"] == result.best_step)
    best, out = str(tmp_path / "run/best"), tmp_path / "out"
    done = evaluate_model(best, data, out, split="train", metrics=["bleu", "cider"])
    assert done.scores["CIDEr-D"] == pytest.approx(result.best_cider, rel=1e-6) and result.best_cider > 0
    assert done.scores["BLEU-4"] == pytest.approx(row["bleu4"], rel=1e-6)
    provenance = json.loads((tmp_path / "run/best/config.json").read_text())["provenance"]
    assert provenance["val_cider"] == result.best_cider
    assert f"{result.best_cider:.4f}, of generated captions" in (tmp_path / "run/best/README.md").read_text()


# --- the parts of a step ---


def test_label_smoothing_is_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 11, generator=generator), torch.randint(11, (50,), generator=generator)
    attended = torch.rand(7, 9, generator=generator)
    for smoothing in (0.0, 0.1, 0.5):
        found = losses(Decoded(logits, attended), targets, smoothing)
        wanted = nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="sum")(logits, targets)
        torch.testing.assert_close(found.objective, wanted)
        torch.testing.assert_close(found.nats, nn.CrossEntropyLoss(reduction="sum")(logits, targets))
    by_hand = sum(sum((1 - a) ** 2 for a in row) / 9 for row in attended.tolist())
    assert found.coverage.item() == pytest.approx(by_hand, rel=1e-5)


def test_a_step_minimises_the_mean_over_its_words_and_captions(
    data: Path, transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        **WHOLE,
        "trainer.gradient_accumulation_steps": 2,
        "loss.doubly_stochastic_weight": 0.7,
        "loss.label_smoothing": 0.2,
    }
    recipe = make_recipe(transformer, changes)
    made = run_setup.prepare(recipe, data)
    accelerator = distributed.make_accelerator("no", made.model)
    train_set = CaptionDataset(made.train, made.tokenizer, recipe, made.preprocessing, augment=True)
    plan = EpochSampler(len(train_set), recipe)
    _, indices = plan.images_of(0)
    batch = collate([train_set[0, index] for index in indices], features=False)
    with torch.no_grad():
        decoded = made.model(batch.images, None, batch.captions)
    wanted = nn.CrossEntropyLoss(label_smoothing=0.2)(decoded.logits, batch.targets)
    wanted = wanted + 0.7 * (1 - decoded.coverage).square().mean()
    learner = TrainStep(made.model, train_set, plan, recipe, accelerator)
    minimised: list[float] = []
    original = accelerator.backward
    monkeypatch.setattr(accelerator, "backward", lambda loss: (minimised.append(loss.item()), original(loss)))
    learnt = learner.step(0, batches(train_set, plan, 0, 0))
    assert len(minimised) == 2 and sum(minimised) == pytest.approx(wanted.item(), rel=1e-5)
    assert learnt.words == len(batch.targets)
    assert learnt.nats == pytest.approx(
        nn.CrossEntropyLoss(reduction="sum")(decoded.logits, batch.targets).item(), rel=1e-5
    )
    spoil(monkeypatch, 2, lambda loss: loss * math.nan)
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    assert learner.step(1, batches(train_set, plan, 1, 0)) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.model.state_dict().items())


def test_the_average_is_what_one_computes_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    model[2].requires_grad_(False)
    average = averaged(model, 0.5)
    by_hand = None
    for count in range(9):
        with torch.no_grad():
            model[0].weight += torch.randn(2, 2)
            model[1].running_mean += 1
        average.update_parameters(model)
        decay = min(0.5, (1 + count) / (10 + count))  # 0.1, 0.18, 0.25, ... 0.5
        current = model[0].weight.detach().double()
        by_hand = current if by_hand is None else decay * by_hand + (1 - decay) * current
    torch.testing.assert_close(average.module[0].weight.double(), by_hand)
    assert torch.equal(average.module[1].running_mean, model[1].running_mean)
    assert average.module[2].weight.data_ptr() == model[2].weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in average.parameters()) and not average.training


@pytest.mark.slow
def test_without_an_average_the_weights_themselves_are_kept(data: Path, backbone: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", make_recipe(backbone, {"trainer.ema_decay": 0, "trainer.epochs": 1}))
    kept, last = load_file(tmp_path / "run/best/model.safetensors"), load_file(tmp_path / "run" / LAST)
    assert all(torch.equal(tensor, last[f"model/{name}"]) for name, tensor in kept.items())


def test_rates_rise_linearly_then_fall_as_a_cosine() -> None:
    factors = [lr_multiplier(step, 110, 10, 0.1) for step in range(110)]
    assert factors[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert (
        factors[10] == 1
        and factors[60] == pytest.approx(0.55)
        and factors[35] == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    )
    assert all(a > b for a, b in pairwise(factors[10:])) and 0.1 < factors[-1] < 0.101
    assert lr_multiplier(0, 1, 0, 0.1) == 1


def test_each_part_has_its_rate_and_only_matrices_decay(data: Path, backbone: Path, tmp_path: Path) -> None:
    recipe = make_recipe(
        backbone, {**WHOLE, "trainer.epochs": 1, "trainer.batch_size": 12, "optimizer.warmup": 0,
                   "optimizer.weight_decay": 0, "trainer.ema_decay": 0}
    )  # fmt: skip
    before = {name: t.clone() for name, t in run_setup.prepare(recipe, data).model.state_dict().items()}
    train(data, tmp_path / "run", recipe)
    after = load_file(tmp_path / "run/best/model.safetensors")
    for part, rate in (("encoder.", 1e-3), ("decoder.", 3e-3), ("neck.", 3e-3)):
        # Adam's first step moves a weight by its rate.
        moved = [
            (after[name] - before[name]).abs().max().item()
            for name in after
            if name.startswith(part) and "running" not in name and "num_batches" not in name
        ]
        assert max(moved) == pytest.approx(rate, rel=1e-2)
    groups = parameter_groups(run_setup.prepare(recipe, data).model, OptimizerRecipe(weight_decay=0.5))
    assert {(g["name"], g["weight_decay"]) for g in groups} == {
        (part, decay) for part in ("encoder", "decoder") for decay in (0.0, 0.5)
    }
    assert all((p.ndim > 1) for g in groups if g["weight_decay"] for p in g["params"])


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"trainer.batch_size": 5}])
def test_a_step_in_parts_is_the_same_step(data: Path, backbone: Path, tmp_path: Path, changes: dict) -> None:
    # Norms of a trained encoder would see each part alone, so it is frozen here.
    for parts in (1, 2, 4):  # of 12 images by 5, the last step has fewer than parts
        plain = {"decoder.dropout": 0, "decoder.feature_dropout": 0, "trainer.gradient_accumulation_steps": parts}
        train(data, tmp_path / str(parts), make_recipe(backbone, {**plain, **changes}))
        assert furthest(tmp_path / "1", tmp_path / str(parts)) < 1e-5
        ours, theirs = (rows(tmp_path / run, "eval")[-1]["val_loss"] for run in ("1", str(parts)))
        assert ours == pytest.approx(theirs, rel=1e-5)
    (tmp_path / "cache").rename(tmp_path / "other")
    train(data, tmp_path / "seed", make_recipe(backbone, {**plain, **changes, "trainer.seed": 1}))
    assert furthest(tmp_path / "1", tmp_path / "seed") > 1e-3  # so the comparison above can fail


@pytest.mark.slow
def test_sixteen_bits_and_thirty_two_after_one_another(data: Path, backbone: Path, tmp_path: Path) -> None:
    for bits in ("bf16", "no"):
        train(data, tmp_path / bits, make_recipe(backbone, {**WHOLE, "trainer.precision": bits}))
    half, full = (rows(tmp_path / bits, "eval")[-1]["val_loss"] for bits in ("bf16", "no"))
    assert half != full and half == pytest.approx(full, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_only_where_the_machine_computes_in_it(
    native: bool, data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "computes_in_bf16", lambda: native)
    train(data, tmp_path / "run", make_recipe(backbone, {"trainer.precision": "auto", "trainer.epochs": 1}))
    kept = open_model(tmp_path / "run/best").config["provenance"]
    named = "bf16" if native else "no"
    assert kept["recipe"]["trainer"]["precision"] == named  # so that a resumed run goes on in the same
    assert "--trainer.precision auto" not in kept["command"]


def test_a_precision_that_the_machine_lacks_is_said(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, said = (
        make_recipe(backbone, {"trainer.precision": "fp16"}),
        r"trainer\.precision = 'fp16': not on this machine",
    )
    if not torch.accelerator.is_available():
        with pytest.raises(RecipeError, match=rf"{said} \(the device is cpu\); use 'bf16' or 'no'"):
            train(data, tmp_path / "run", recipe)

    def lacks(**_: object) -> None:
        raise ValueError("fp16 needs another device (not 'abacus').\nAnd more.")

    monkeypatch.setattr(distributed, "Accelerator", lacks)
    with pytest.raises(RecipeError, match=rf"{said} \(fp16 .*'abacus'\)\.\)"):
        train(data, tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_the_scale_of_sixteen_bit_losses_is_resumed() -> None:
    before, after = (SimpleNamespace(scaler=torch.amp.GradScaler("cpu")) for _ in range(2))
    before.scaler.load_state_dict({**before.scaler.state_dict(), "scale": 8.0, "_growth_tracker": 3})
    progress = Progress()
    distributed.note_scale(before, progress)
    assert (progress.loss_scale, progress.loss_scale_steps) == (8.0, 3)
    distributed.restore_scale(after, progress)
    assert after.scaler.state_dict() == before.scaler.state_dict()


# --- encoders ---


@pytest.mark.slow
def test_a_frozen_encoder_is_kept_as_it_was_and_looks_once(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    original = feature_cache._compute

    def counted(encoder, captions, *rest):
        computed.append(captions.split)
        return original(encoder, captions, *rest)

    monkeypatch.setattr(feature_cache, "_compute", counted)

    def looks(name: str, changes: dict | None = None, *, data: Path = data, backbone: Path = backbone) -> list[str]:
        computed.clear()
        train(data, tmp_path / name, make_recipe(backbone, {"trainer.epochs": 1, **(changes or {})}))
        return list(computed)

    assert looks("first") == ["train", "val"]
    given, kept = load_file(backbone / "model.safetensors"), load_file(tmp_path / "first/best/model.safetensors")
    encoder = {name.removeprefix("encoder.network."): t for name, t in kept.items() if name.startswith("encoder.")}
    assert encoder.keys() == given.keys() and all(torch.equal(encoder[name], given[name]) for name in given)
    assert looks("again", {"trainer.seed": 5, "decoder.hidden": 8}) == []
    assert looks("mirrored", {"image.flip": "true"}) == ["train"]
    assert looks("larger", {"image.height": 40}) == ["train", "val"]
    assert (
        looks("cropped", {"image.random_resized_crop_scale": 0.5}) == []
    )  # what is cropped afresh each time cannot be kept
    other = Path(shutil.copytree(backbone, tmp_path / "backbone"))
    torch.manual_seed(1)
    from safetensors.torch import save_file

    save_file(
        {n: t + 0.01 * torch.rand_like(t) if t.ndim == 4 else t for n, t in given.items()}, other / "model.safetensors"
    )
    assert looks("another", backbone=other) == ["train", "val"]
    copied = Path(shutil.copytree(data, tmp_path / "copied"))
    assert looks("of the copy", data=copied) == []
    draw("white", "bar").save(copied / "red-bar.png")
    assert looks("repaired", data=copied) == ["train"]


def test_features_are_what_the_encoder_makes_of_both_views(data: Path, backbone: Path) -> None:
    recipe = make_recipe(backbone)
    made = run_setup.prepare(recipe, data)
    encoder = made.model.encoder.eval()
    arguments = {"flips": True, "precision": "no", "shown": lambda items, *_: items}
    found, broken = feature_cache.cached_features(encoder, made.train, made.preprocessing, **arguments)
    assert found.shape == (12, 2, 16, 16) and found.dtype == np.float16 and broken == {}
    for index, view in ((0, 0), (5, 1), (11, 1)):
        pixels = load_image(made.train[index].image, made.preprocessing, flip=bool(view))
        with torch.inference_mode():
            wanted = encoder(torch.from_numpy(pixels)[None])[0]
        np.testing.assert_allclose(found[index, view], wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_disk_without_room_for_features_is_said_at_once(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"No space.*CAPTIONKIT_CACHE"
    with monkeypatch.context() as patched:
        patched.setattr(feature_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
        with pytest.raises(TrainingError, match=said):
            train(data, tmp_path / "run", make_recipe(backbone))

    def full(_: int) -> None:
        if list((tmp_path / "cache").rglob("*.partial")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match=said):
            train(data, tmp_path / "other", make_recipe(backbone))
    assert not list((tmp_path / "cache").rglob("*.partial")) and not list((tmp_path / "cache").rglob("*.npy"))
    train(data, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_an_own_encoder_is_trained_from_scratch(data: Path, tmp_path: Path) -> None:
    changes = {"encoder.weights": "", "encoder.train": "all", "trainer.epochs": 1, "trainer.batch_size": 12}
    recipe = make_recipe("mobilenet-v2", {**changes, "trainer.save_dtype": "float16"})
    before = {name: t.clone() for name, t in run_setup.prepare(recipe, data).model.state_dict().items()}
    train(data, tmp_path / "run", recipe)
    after, last = load_file(tmp_path / "run/best/model.safetensors"), load_file(tmp_path / "run" / LAST)
    still = [name for name in after if torch.equal(after[name].float(), before[name].half().float())]
    assert not [name for name in still if name.startswith("encoder.") and name.endswith(("conv.weight", "_var"))]
    for name, tensor in after.items():  # the average's norms are the model's
        if "running" in name:
            assert torch.equal(tensor, last[f"model/{name}"].half())


def test_only_the_stages_asked_for_are_trained(data: Path, backbone: Path, tmp_path: Path) -> None:
    changes = {"encoder.train": "stages", "encoder.first_stage": -1}
    train(data, tmp_path / "run", make_recipe(backbone, changes))
    given, kept = load_file(backbone / "model.safetensors"), load_file(tmp_path / "run/best/model.safetensors")
    changed = {name for name in given if not torch.equal(given[name], kept[f"encoder.network.{name}"])}
    assert changed and all(name.startswith("encoder.stages.1.") for name in changed)


def test_a_random_encoder_cannot_be_frozen(data: Path, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"encoder\.pretrained is false, so the encoder is random"):
        train(data, tmp_path / "run", make_recipe(backbone, {"encoder.pretrained": "false"}))
    with pytest.raises(RecipeError, match=r"encoder\.weights is empty, so the encoder is random"):
        train(data, tmp_path / "run", make_recipe("mobilenet-v2", {"encoder.weights": ""}))
    with pytest.raises(RecipeError, match=r"encoder\.weights = 'some\.safetensors'.*leave it out"):
        train(data, tmp_path / "run", make_recipe(backbone, {"encoder.weights": "some.safetensors"}))
    assert not (tmp_path / "run").exists()


def test_a_run_may_start_from_a_model(data: Path, backbone: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "first", make_recipe(backbone))
    best = tmp_path / "first" / "best"
    changes = {"trainer.init": best, "encoder.name": "", "optimizer.lr_decoder": 1e-9}
    recipe = make_recipe(backbone, {**changes, "decoder.dropout": 0.4})
    train(data, tmp_path / "second", recipe)
    assert furthest(tmp_path / "first", tmp_path / "second") < 1e-6
    assert open_model(tmp_path / "second/best").section("architecture")["decoder"]["dropout"] == 0.4
    with pytest.raises(RecipeError, match=r"decoder\.hidden = 25: .*has 24; leave it out"):
        train(data, tmp_path / "third", make_recipe(backbone, {**changes, "decoder.hidden": 25}))


# --- data ---


def test_a_dataset_in_one_piece_gets_a_validation_split(backbone: Path, tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data", val=0)
    recipe = make_recipe(backbone, {"data.val_fraction": 0.25})
    made = run_setup.prepare(recipe, data)
    names = [{example.name for example in captions_} for captions_ in (made.train, made.val)]
    assert list(map(len, names)) == [9, 3] and not names[0] & names[1]
    assert run_setup.prepare(recipe, data).val.fingerprint() == made.val.fingerprint()
    train(data, tmp_path / "run", recipe)
    (data / "one").mkdir()
    shutil.copy(data / "red-bar.png", data / "one")
    (data / "one" / "captions.csv").write_text("image,caption\nred-bar.png,a red bar\n")
    with pytest.raises(TrainingError, match="too few"):
        train(data / "one", tmp_path / "one", recipe)


def test_splits_are_known_by_any_usual_name_and_wrong_names_are_said(data: Path, backbone: Path) -> None:
    made = run_setup.prepare(make_recipe(backbone, {"data.val_split": "validation"}), data)
    assert len(made.val) == 3
    for field in ("data.train_split", "data.val_split"):
        with pytest.raises(DatasetError, match="there is no split 'extra'"):
            run_setup.prepare(make_recipe(backbone, {field: "extra"}), data)


def test_captions_without_a_word_are_not_taught(backbone: Path, tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data")
    content = json.loads((data / "captions_train.json").read_text())
    first, second = content["images"][0]["id"], content["images"][1]["id"]
    kept = [a for a in content["annotations"] if a["image_id"] != first]
    extra = [{"image_id": image, "caption": "..."} for image in (first, second)]
    (data / "captions_train.json").write_text(json.dumps({**content, "annotations": kept + extra}))
    made = run_setup.prepare(make_recipe(backbone), data)
    assert len(made.train) == 11
    assert all(caption != "..." for example in made.train for caption in example.captions)


@pytest.fixture
def damaged(data: Path, tmp_path: Path) -> Path:
    """The dataset with one truncated image to train on, and one to validate on."""
    root = Path(shutil.copytree(data, tmp_path / "damaged"))
    for name in ("red-square.png", "black-circle.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    return root


@pytest.mark.parametrize("changes", [{}, *slow(WHOLE, {**WHOLE, "trainer.batch_size": 1}, {"trainer.batch_size": 1})])
def test_unreadable_pictures_are_left_out_and_named_at_the_end(
    damaged: Path, backbone: Path, tmp_path: Path, changes: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(damaged, tmp_path / "run", make_recipe(backbone, changes))
    assert result.steps == 2 * math.ceil(12 / changes.get("trainer.batch_size", 4))
    left_out = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 2
    assert "black-circle.png" in left_out[0] and "red-square.png" in left_out[1]


@pytest.mark.parametrize("changes", [{}, *slow({**WHOLE, "image.random_resized_crop_scale": 0.5})])
@pytest.mark.parametrize("split", ["train", "val"])
def test_nothing_but_unreadable_pictures_is_an_error(
    data: Path, backbone: Path, tmp_path: Path, changes: dict, split: str
) -> None:
    root = Path(shutil.copytree(data, tmp_path / "damaged"))
    for image in json.loads((root / f"captions_{split}.json").read_text())["images"]:
        (root / image["file_name"]).write_bytes(b"not an image")
    what = "none of the last 12 images can be read" if split == "train" else "none of the validation images"
    with pytest.raises(TrainingError, match=rf"{what}.*\.png") as caught:
        train(root, tmp_path / "run", make_recipe(backbone, changes))
    assert "\n" not in str(caught.value)


def test_problems_of_the_dataset_are_said(
    data: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(data, tmp_path / "data"))
    (root / "red-bar.png").unlink()
    train(root, tmp_path / "run", make_recipe(backbone, {"trainer.epochs": 1}))
    said = capsys.readouterr().err
    assert re.search(r"problems in the data: 1, .*red-bar\.png.*captionkit inspect", said)
    assert said.startswith("11 training and 3 validation images")


# --- failures ---


def spoil(monkeypatch: pytest.MonkeyPatch, at: int, how: Callable) -> None:
    """Let the loss of the step numbered `at` (from 1) go through `how`."""
    calls = iter(range(1, 10_000))
    original = train_step.losses

    def spoilt(*given):
        found = original(*given)
        return found._replace(objective=how(found.objective)) if next(calls) == at else found

    monkeypatch.setattr(train_step, "losses", spoilt)


@pytest.mark.parametrize(
    "how",
    [
        lambda loss: loss * math.nan,
        *slow(
            lambda loss: loss * math.inf,
            lambda loss: loss + (loss * 0).sqrt(),  # finite, but its gradient is not
        ),
    ],
)
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Callable, how: Callable
) -> None:
    recipe = make_recipe(backbone, {"trainer.checkpoint_every": 0})
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        spoil(patched, 5, how)
        with pytest.raises(
            TrainingError, match=r"the loss of step 5 is not finite.*last\.safetensors.*lower"
        ) as caught:
            train(data, run, recipe)
    assert "\n" not in str(caught.value) and str(run / "best") in str(caught.value)
    stored = load_file(run / LAST)
    assert all(tensor.isfinite().all() for tensor in stored.values() if tensor.is_floating_point())
    assert train(data, run, resume=True).steps == 6
    assert same_tensors(run / LAST, uninterrupted(recipe) / LAST)


@pytest.mark.slow
def test_an_absurd_rate_ends_in_an_error(data: Path, backbone: Path, tmp_path: Path) -> None:
    changes = {**WHOLE, "optimizer.lr_decoder": 1e30, "trainer.checkpoint_every": 0, "optimizer.warmup": 0}
    with pytest.raises(TrainingError, match=r"loss.* step \d is not finite"):
        train(data, tmp_path / "run", make_recipe(backbone, changes))
    load_file(tmp_path / "run" / LAST)


@pytest.mark.parametrize(
    ("keep", "course"),
    [  # (CIDEr-D, loss)
        ("cider", [(0.5, 1.0), (0.5, 0.9), (0.5, 0.95), (0.4, 0.1), (9.9, 0.1)]),
        *slow(("loss", [(0.4, 0.9), (0.5, 0.9), (0.4, 0.9), (9.9, 1.0), (9.9, 0.1)])),
    ],
)
def test_patience_ends_a_run_that_gets_no_better(
    keep: str,
    course: list[tuple[float, float]],
    data: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The score or the loss decides, and of equal ones the other."""
    coming = iter(course)

    def validated(*_: object) -> Validation:
        cider, loss = next(coming)
        return Validation(loss, {"cider": cider}, {}, WordConfidence(), set())

    monkeypatch.setattr(trainer, "validate", validated)
    recipe = make_recipe(backbone, {"trainer.epochs": 9, "trainer.patience": 2, "trainer.monitor": keep})
    result = train(data, tmp_path / "run", recipe)
    assert (result.best_cider, result.best_loss, result.best_step, result.steps) == (0.5, 0.9, 6, 12)
    assert "no better for a while" in capsys.readouterr().err
    config = json.loads((tmp_path / "run/best/config.json").read_text())
    assert config["provenance"]["step"] == 6
    assert train(data, tmp_path / "run", resume=True) == result


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_checkpoint(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Callable
) -> None:
    recipe = make_recipe(backbone, {"trainer.checkpoint_every": 0})
    run, original, before = tmp_path / "run", os.fsync, []

    def full(handle: int) -> None:
        if (run / LAST).exists():
            before.append((run / LAST).read_bytes())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(CaptionkitError, match=r"No space left on device.*free space") as caught:
            train(data, run, recipe)
    assert "\n" not in str(caught.value)
    assert (run / LAST).read_bytes() == before[0]
    assert not list(run.glob(".*.partial"))
    assert train(data, run, resume=True).steps == 6
    assert same_tensors(run / LAST, uninterrupted(recipe) / LAST)


@pytest.mark.slow
def test_a_disk_that_fills_while_metrics_are_written(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*--resume"):
        train(data, tmp_path / "run", make_recipe(backbone))


def test_a_folder_that_holds_a_run_is_not_written_to(data: Path, backbone: Path, tmp_path: Path) -> None:
    recipe = make_recipe(backbone, {"trainer.epochs": 1})
    train(data, tmp_path / "run", recipe)
    before = (tmp_path / "run" / METRICS).read_bytes()
    with pytest.raises(TrainingError, match="holds a run already; continue it with --resume or give another --output"):
        train(data, tmp_path / "run", recipe)
    assert (tmp_path / "run" / METRICS).read_bytes() == before
    with RunFolder(tmp_path / "run")._lock, pytest.raises(TrainingError, match="another process is training here"):
        train(data, tmp_path / "run", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptionkitError, match=r"file: is a file where a folder is wanted"):
        train(data, tmp_path / "file", recipe)


@pytest.mark.slow
def test_what_cannot_be_resumed_says_why(data: Path, backbone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"holds no run to resume.*leave out --resume"):
        train(data, run, resume=True)
    assert not run.exists()
    train(data, run, make_recipe(backbone, {"trainer.epochs": 1}))
    checkpoint = (run / LAST).read_bytes()
    smaller = make_shapes(tmp_path / "smaller", train=11)
    with pytest.raises(TrainingError, match="another recipe, dataset or captionkit"):
        train(smaller, run, resume=True)
    for cut in (0, 5, 300, len(checkpoint) - 1):
        (run / LAST).write_bytes(checkpoint[:cut])
        with pytest.raises(TrainingError, match=r"last\.safetensors: damaged checkpoint.*--init .*best") as caught:
            train(data, run, resume=True)
        assert "\n" not in str(caught.value)
    shutil.copy(run / "best/model.safetensors", run / LAST)
    with pytest.raises(TrainingError, match="another recipe, dataset or captionkit"):
        train(data, run, resume=True)
    (run / LAST).unlink()  # killed before its first checkpoint, a run starts over
    assert train(data, run, resume=True).steps == 3


def test_what_a_killed_run_left_half_written_is_mended(data: Path, backbone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(data, run, make_recipe(backbone))
    whole = (run / METRICS).read_text(encoding="utf-8")
    (run / METRICS).write_text(whole + whole.splitlines()[-1][:25], encoding="utf-8")
    (run / ".last.safetensors.abc.partial").write_bytes(b"half")
    (run / ".best.abc.partial").mkdir()
    train(data, run, resume=True)
    assert (run / METRICS).read_text(encoding="utf-8") == whole
    assert not list(run.glob(".*.partial"))


def test_out_of_memory_is_an_error_with_a_way_out(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(*_: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate much.\nAnd more.")

    spoil(monkeypatch, 3, large)
    with pytest.raises(TrainingError, match=r"out of memory after step 2; .*gradient_accumulation_steps") as caught:
        train(data, tmp_path / "run", make_recipe(backbone))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_failed_export_loses_nothing(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(backbone, {"trainer.epochs": 1})
    train(data, tmp_path / "without", recipe)
    assert re.search(r"`captionkit export .*best`.*pip install 'captionkit\[train\]'", capsys.readouterr().err)
    monkeypatch.delitem(sys.modules, "onnx")

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand a long story")

    pytest.importorskip("captionkit.export.export_model", reason="the extra `train` is not installed")
    monkeypatch.setattr("captionkit.export.export_model.export_model", fails)
    assert train(data, tmp_path / "run", recipe).steps == 3
    said = capsys.readouterr().err
    assert "not exported (no such operator); `captionkit export" in said and "long story" not in said
    open_model(tmp_path / "run/best").verify()
    given = {}
    monkeypatch.setattr(
        "captionkit.export.export_model.export_model", lambda path, **options: given.update(path=path, **options)
    )
    train(data, tmp_path / "run", resume=True)
    assert given["path"] == tmp_path / "run/best" and len(given["images"]) == 3 and given["half"] is False


@pytest.mark.slow
def test_the_card_tells_the_command_that_makes_the_same_run(data: Path, backbone: Path, tmp_path: Path) -> None:
    import shlex

    from captionkit.cli import main as cli

    recipe = make_recipe(backbone, {"trainer.epochs": 1, "image.flip": "true", "image.flip_unless": "to the left,up"})
    train(data, tmp_path / "run", recipe)
    card = (tmp_path / "run/best/README.md").read_text(encoding="utf-8")
    command = shlex.split(re.search(r"\| command \| `(.*)` \|", card)[1])
    assert command[:5] == ["captionkit", "train", str(data), "--output", str(tmp_path / "run")]
    command[4] = str(tmp_path / "again")
    assert cli.main(command[1:]) == 0
    assert same_tensors(tmp_path / "run" / LAST, tmp_path / "again" / LAST)
    assert best_model.find_spec("onnx") is None  # as said above, nothing was exported here


# --- several processes ---


TRAINED = {"encoder.train": "all", "image.random_resized_crop_scale": 0.7, "trainer.gradient_accumulation_steps": 2}
MIXED = {**VARIED, "data.weights": "1,0.5"}
TRANSFORMER = {"decoder.name": "transformer", "decoder.width": 16, "decoder.layers": 1, "decoder.heads": 2}
TRANSFORMER |= {"decoder.embedding": 512, "decoder.hidden": 512, "decoder.attention": 256}  # which are not its own


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        TRAINED,
        MIXED,
        {**TRAINED, **MIXED, "image.color_jitter": 0.3},
        {
            "encoder.train": "all",
            "encoder.unfreeze_epochs": 1,
            "encoder.layer_decay": 0.5,
            "trainer.gradient_accumulation_steps": 2,
        },
        # One image a step: a process has none in every step, and both have none where it cannot be read.
        {"encoder.train": "all", "trainer.batch_size": 1},
        {**TRANSFORMER, "image.flip": "true", "trainer.batch_size": 2},
        {"trainer.init": "a model", "loss.objective": "self-critical", "data.weights": "1,0.5"},
    ],
    ids=["features", "parts", "mixed", "all", "thawing", "one image", "transformer", "self-critical"],
)
def test_two_processes_teach_what_one_does(
    damaged: Path, transformer: Path, tmp_path: Path, changes: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {"decoder.dropout": 0, "decoder.feature_dropout": 0, "trainer.checkpoint_every": 0, "trainer.batch_size": 5}
    if "trainer.init" in changes:
        train(damaged, tmp_path / "before", make_recipe(transformer, {**plain, "trainer.epochs": 40}))
        changes = {**changes, "trainer.init": tmp_path / "before/best"}
        capsys.readouterr()
    recipe = make_recipe(transformer, {**plain, "trainer.epochs": 4, "trainer.patience": 0, **changes})
    datasets = [damaged, make_halves(tmp_path / "halves")] if recipe.data.weights else [damaged]
    alone = train(datasets, tmp_path / "one", recipe)
    said = capsys.readouterr().err
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    both = launch(2, ["train", *datasets, "--output", tmp_path / "two", *recipe.to_flags()], tmp_path / "logs")
    for process in both:
        process.join(240)
    logged, silent = ((tmp_path / "logs" / f"log{rank}").read_text() for rank in range(2))
    assert [process.exitcode for process in both] == [0, 0], logged + silent
    assert furthest(tmp_path / "one", tmp_path / "two") < 2e-5
    learnt = ("reward", "entropy", "words", "distinct") if "trainer.init" in changes else ("loss",)
    for kind, names in (("train", learnt), ("eval", ("val_loss", "cider", "bleu4", "distinct", "words", "best"))):
        ours, theirs = (rows(tmp_path / run, kind) for run in ("one", "two"))
        assert len(ours) == len(theirs)
        for name in ("step", "epoch", *names):
            assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], rel=1e-5)
    assert theirs[-1]["step"] == alone.steps
    ours, theirs = (json.loads((tmp_path / run / "best/config.json").read_text()) for run in ("one", "two"))
    assert [ours["provenance"]["processes"], theirs["provenance"]["processes"]] == [1, 2]
    for name, values in ours["calibration"].items():
        assert values == pytest.approx(theirs["calibration"][name], rel=1e-4)
    pages = [(tmp_path / run / "samples.html").read_text() for run in ("one", "two")]
    ours, theirs = (re.sub(r"<[^>]*>|[\d.]+", " ", page).split() for page in pages)  # the words alone
    assert ours == theirs
    left_out = [line for line in said.splitlines() if line.startswith("left out")]
    assert len(left_out) == 2 and all(logged.count(line) == 1 for line in left_out)  # met by either, reported by one
    assert logged.count("all epochs done") == 1
    assert not [line for line in silent.splitlines() if line and "captionkit" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    "decoder", [{"decoder.name": "show-tell", "decoder.attention": 256}, {"decoder.kind": "hard"}], ids=["tell", "hard"]
)
def test_two_processes_with_norms_and_chance_are_one_run_and_keep_what_they_score(
    data: Path, backbone: Path, tmp_path: Path, decoder: dict
) -> None:
    # The encoder has norms over batches, each process' own; dropout and sampled cells differ in each, too.
    recipe = make_recipe(backbone, {"encoder.train": "all", "trainer.checkpoint_every": 0, **decoder})
    for run in ("once", "twice"):
        both = launch(2, ["train", data, "--output", tmp_path / run, *recipe.to_flags()], tmp_path / "logs")
        for process in both:
            process.join(240)
        logged = "".join((tmp_path / "logs" / f"log{rank}").read_text() for rank in range(2))
        assert [process.exitcode for process in both] == [0, 0], logged
    assert same_tensors(tmp_path / "once" / LAST, tmp_path / "twice" / LAST)
    kept = next(row for row in reversed(rows(tmp_path / "once", "eval")) if row["best"])
    assert word_by_word(tmp_path / "once", data) == pytest.approx(kept["val_loss"], rel=1e-5)
