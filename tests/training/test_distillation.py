"""Teachers: what they expect of each word is a target of a run beside the words."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch

from captionkit.cli import main as cli
from captionkit.data.images import load_image
from captionkit.data.layouts import open_dataset
from captionkit.data.run_files import BEST
from captionkit.errors import RecipeError
from captionkit.inference.model_folder import open_model
from captionkit.models.decoder import Decoded
from captionkit.models.serialization import load_model
from captionkit.training import run_datasets, run_setup
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.collate import collate, packed_rows
from captionkit.training.data.loader import batches
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.data.soft_targets import SoftLabels
from captionkit.training.engine import distributed
from captionkit.training.objectives import distillation
from captionkit.training.objectives.losses import losses
from captionkit.training.trainer import train
from captionkit.utils import paths
from decoders import follow
from kept import rows, same_tensors
from shapes import make_recipe

pytestmark = pytest.mark.usefixtures("alone")

BRIEF = {"trainer.epochs": 8, "trainer.eval_every": 8, "optimizer.lr_decoder": 1e-2, "trainer.log_samples": 0}
#: enough to know the training captions nearly by heart
LONG = {"trainer.epochs": 40, "trainer.eval_every": 40, "decoder.dropout": 0.0}


def unseen(items, count, what):
    return items


@pytest.fixture(scope="module")
def teachers(data: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one vocabulary and of different sizes, trained a little."""
    folder = tmp_path_factory.mktemp("teachers")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CAPTIONKIT_CACHE", str(folder / "cache"))
        for name, sizes in (("one", {"decoder.hidden": 24}), ("two", {"decoder.hidden": 20, "trainer.seed": 1})):
            train(data, folder / name, make_recipe(backbone, {**BRIEF, **sizes}), export=False)
    return [folder / "one" / BEST, folder / "two" / BEST]


def taught_by(teachers: list[Path], backbone: Path, **changes: object) -> Recipe:
    named = {"distillation.teachers": ",".join(map(str, teachers))}
    return make_recipe(
        backbone, {**BRIEF, **named, **{name.replace("__", "."): value for name, value in changes.items()}}
    )


def test_packed_rows_follow_the_packing() -> None:
    # Captions of 2, 4, 1 words, packed longest first: their words stand at 0-1, 2-5 and 6.
    assert packed_rows([2, 4, 1], [1, 0, 2]).tolist() == [2, 0, 6, 3, 1, 4, 5]
    assert packed_rows([], []).tolist() == []


def test_the_objective_is_the_mixture_of_both_cross_entropies() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, generator=generator, dtype=torch.float)
    targets = torch.tensor([1, 6, 2])
    whole = torch.rand(3, 7, generator=generator)
    whole /= whole.sum(-1, keepdim=True)
    order = torch.stack([torch.randperm(7, generator=generator) for _ in range(3)])
    soft = SoftLabels(order, whole.gather(1, order))
    found = losses(Decoded(logits, None), targets, 0.1, soft, 0.25)
    hard = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1, reduction="sum")
    soft_loss = torch.nn.functional.cross_entropy(logits, whole, reduction="sum")
    torch.testing.assert_close(found.objective, 0.75 * hard + 0.25 * soft_loss, rtol=1e-5, atol=1e-5)
    plain = losses(Decoded(logits, None), targets, 0.1)
    torch.testing.assert_close(found.nats, plain.nats)
    torch.testing.assert_close(plain.objective, hard, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_targets_are_the_mean_of_what_the_teachers_say_word_by_word(
    teachers: list[Path], data: Path, backbone: Path
) -> None:
    recipe = taught_by(teachers, backbone)
    prepared = run_setup.prepare(recipe, data)
    accelerator = distributed.make_accelerator("no", prepared.model, unfreezing=False)
    train_set = run_datasets.build_datasets(prepared, recipe, accelerator, "train", unseen)
    models = [(open_model(path), load_model(open_model(path))) for path in teachers]
    for index in (0, len(train_set) - 1):
        picture = prepared.train.examples[index].image
        for place, caption in enumerate(train_set.tokens[index]):
            shares = []
            for folder, model in models:
                pixels = torch.from_numpy(load_image(picture, folder.preprocessing))[None]
                with torch.inference_mode():
                    memory = model.encode(pixels)[0]
                    shares.append(follow(model.decoder, memory, caption[:-1])[0].softmax(-1))
            expected = torch.stack(shares).mean(0)  # [L,V]
            entries = train_set.soft.of(index, place)
            assert len(entries) == len(caption) - 1
            table = np.zeros(expected.shape)
            np.put_along_axis(table, entries["id"].astype(np.int64), entries["share"].astype(float), axis=1)
            kept = entries.shape[1]
            best = expected.topk(kept)
            assert np.abs(table.sum(1) - 1).max() < 2e-3
            np.testing.assert_allclose(
                np.take_along_axis(table, best.indices.numpy(), axis=1),
                (best.values / best.values.sum(-1, keepdim=True)).numpy(),
                atol=4e-3,
            )


@pytest.mark.slow
def test_each_word_of_a_batch_has_its_own_targets(
    teachers: list[Path], data: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is chosen of an image's captions and however they are packed; told apart by entries of one's own."""
    recipe = taught_by(
        teachers, backbone, data__captions_per_image=1, image__flip="true", image__random_resized_crop_scale=0.6
    )
    prepared = run_setup.prepare(recipe, data)
    accelerator = distributed.make_accelerator("no", prepared.model, unfreezing=False)
    train_set = run_datasets.build_datasets(prepared, recipe, accelerator, "train", unseen)
    words = sum(len(caption) - 1 for captions in train_set.tokens for caption in captions)
    marked = np.zeros((words, 1), distillation._ENTRY)
    marked["id"][:, 0] = [word for captions in train_set.tokens for caption in captions for word in caption[1:]]
    train_set.soft = distillation.SoftTargets(marked, train_set.tokens, "")
    plan = EpochSampler(len(train_set), recipe)
    for batch in batches(train_set, plan, 0, 0):
        assert batch.soft.ids.squeeze(1).tolist() == batch.targets.tolist()
        assert batch.to(torch.device("cpu")).soft.ids.shape == batch.soft.ids.shape
    assert collate([train_set[0, 0]], features=False).soft is not None


@pytest.mark.slow
def test_a_run_comes_close_to_its_teacher(teachers: list[Path], data: Path, backbone: Path, tmp_path: Path) -> None:
    """Taught by a teacher alone that is unsure, a model is as unsure as that; the targets are kept for the next run."""
    recipe = taught_by(teachers[:1], backbone, distillation__weight=1.0, **LONG)
    train(data, tmp_path / "run", recipe, export=False)
    train(data, tmp_path / "plain", make_recipe(backbone, {**BRIEF, **LONG}), export=False)
    runs = (teachers[0], tmp_path / "run" / BEST, tmp_path / "plain" / BEST)
    teacher, pupil, other = (load_model(open_model(path)) for path in runs)
    (example,) = open_dataset(data)["train"].examples[:1]
    text = open_model(teachers[0]).tokenizer
    pixels = torch.from_numpy(load_image(example.image, open_model(teachers[0]).preprocessing))[None]

    def describe(model) -> torch.Tensor:
        with torch.inference_mode():
            return follow(model.decoder, model.encode(pixels)[0], text.encode(example.captions[0])[:-1])[0].softmax(-1)

    wanted = describe(teacher)
    assert (describe(pupil) - wanted).abs().mean() < 0.3 * (describe(other) - wanted).abs().mean()
    kept = list((paths.cache_folder() / "targets").glob("*.npy"))
    assert len(kept) == 1
    train(data, tmp_path / "again", recipe, export=False)
    assert list((paths.cache_folder() / "targets").glob("*.npy")) == kept
    assert same_tensors(tmp_path / "run" / BEST / "model.safetensors", tmp_path / "again" / BEST / "model.safetensors")
    assert rows(tmp_path / "run", "eval")


@pytest.mark.slow
def test_a_teacher_of_other_words_is_refused(untrained: Path, data: Path, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"distillation\.teachers: .*untrained has another vocabulary.*--init"):
        train(data, tmp_path / "run", taught_by([untrained], backbone), export=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss.objective": "self-critical", "trainer.init": "bundled"}, "by cross-entropy; leave them out"),
        ({"image.flip": True, "image.flip_swap": True}, "leave out image.flip_swap"),
    ],
)
def test_what_teachers_cannot_be_asked_about(
    changes: dict, reason: str, teachers: list[Path], data: Path, backbone: Path, tmp_path: Path
) -> None:
    flags = {"distillation.teachers": str(teachers[0]), **changes}
    with pytest.raises(RecipeError, match=f"distillation.teachers: .*{reason}"):
        run_setup.prepare(make_recipe(backbone, flags), data)


def test_a_teacher_that_is_not_there_is_named(
    data: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    shutil.rmtree(gone, ignore_errors=True)
    flags = ["--encoder.name", str(backbone), "--distillation.teachers", str(gone), "--output", str(tmp_path / "run")]
    assert cli.main(["train", str(data), *flags]) != 0
    error = capsys.readouterr().err
    assert str(gone) in error and "Traceback" not in error
