"""The concept head in whole runs: learnt beside the captions, added to a model, grown, exported."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch

from captionkit.data.images import load_image
from captionkit.data.layouts import open_dataset
from captionkit.errors import RecipeError
from captionkit.inference.model_folder import open_model
from captionkit.inference.search import CONCEPTS
from captionkit.models.captioning_model import CaptioningModel
from captionkit.models.serialization import load_model
from captionkit.training import run_setup
from captionkit.training.config.schema import OptimizerRecipe
from captionkit.training.optim.schedule import parameter_groups
from captionkit.training.trainer import train
from shapes import make_backbone, make_recipe, make_shapes

pytestmark = pytest.mark.usefixtures("alone")

HEAD = {
    "decoder.concepts": 16,
    "loss.concept_weight": 1,
    "trainer.epochs": 100,
    "trainer.patience": 0,
    "trainer.eval_every": 100,
    "encoder.train": "all",
    "optimizer.lr_encoder": 1e-2,
    "optimizer.lr_decoder": 1e-2,
    "decoder.dropout": 0,
    "decoder.feature_dropout": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def plain(data: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a head."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTIONKIT_CACHE", str(folder / "cache"))
        patch.setitem(sys.modules, "onnx", None)
        train(data, folder / "run", make_recipe(backbone, {"trainer.epochs": 1}))
    return folder / "run/best"


@torch.inference_mode()
def evidence(model: CaptioningModel, folder: Path, data: Path) -> tuple[np.ndarray, list[set[str]]]:
    """The evidence [N,V] of the training images, and the words of their captions."""
    opened, examples = open_model(folder), open_dataset(data)["train"]
    images = torch.from_numpy(np.stack([load_image(example.image, opened.preprocessing) for example in examples]))
    words = [{word for caption in example.captions for word in caption.split()} for example in examples]
    return model.begin(model.encode(images))[CONCEPTS].numpy(), words


@pytest.mark.slow
def test_a_head_learns_the_words_of_images(data: Path, backbone: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", make_recipe(backbone, HEAD))
    folder = open_model(tmp_path / "run/best")
    model = load_model(folder)
    assert model.config.concepts == 16 and model.config.concept_weight == 0
    found, words = evidence(model, folder.path, data)
    for name in ("red", "green", "circle", "square"):
        shown = np.array([name in some for some in words])
        values = found[:, folder.tokenizer.tokens.index(name)]
        assert values[shown].mean() > values[~shown].mean() + 1


def test_a_model_without_a_head_is_given_one_and_its_captions_stay(
    data: Path, plain: Path, backbone: Path, tmp_path: Path
) -> None:
    assert load_model(open_model(plain)).concepts is None
    changes = {"trainer.init": plain, "trainer.epochs": 1, "optimizer.lr_decoder": 1e-9, "decoder.concept_weight": 0.2}
    train(data, tmp_path / "run", make_recipe(backbone, {**changes, "decoder.concepts": 4}))
    model = load_model(open_model(tmp_path / "run/best"))
    assert (model.config.concepts, model.config.concept_weight) == (4, 0.2)
    assert model.concepts is not None and model.concepts.base.isfinite().all()
    started, now = (load_model(open_model(path)).decoder.state_dict() for path in (plain, tmp_path / "run/best"))
    for name, value in started.items():
        torch.testing.assert_close(now[name], value, atol=1e-5, rtol=0)
    # A later run keeps the head and its weight unless it names others.
    again = make_recipe(backbone, {"trainer.init": tmp_path / "run/best", "trainer.epochs": 1})
    train(data, tmp_path / "again", again)
    assert load_model(open_model(tmp_path / "again/best")).config.concept_weight == 0.2
    with pytest.raises(RecipeError, match=r"decoder.concepts = 8: .* has 4; leave it out"):
        train(
            data,
            tmp_path / "other",
            make_recipe(backbone, {"trainer.init": tmp_path / "run/best", "decoder.concepts": 8}),
        )


def test_a_head_has_a_learning_rate_of_its_own(data: Path, backbone: Path, tmp_path: Path) -> None:
    model = run_setup.prepare(make_recipe(backbone, HEAD), data).model
    assert model.concepts is not None
    for given, expected in ((0.0, 1e-3), (5e-3, 5e-3)):
        groups = parameter_groups(model, OptimizerRecipe(lr_concepts=given))
        found = {name: {group["lr"] for group in groups if group["name"] == name} for name in ("decoder", "concepts")}
        assert found == {"decoder": {1e-3}, "concepts": {expected}}
        head = {p for group in groups if group["name"] == "concepts" for p in group["params"]}
        assert head == set(model.concepts.parameters())


def test_a_weight_without_a_head_is_refused(data: Path, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"decoder.concept_weight = 0.2: needs decoder.concepts"):
        train(data, tmp_path / "run", make_recipe(backbone, {"decoder.concept_weight": 0.2}))


def test_self_critical_training_goes_on_with_the_head(data: Path, plain: Path, backbone: Path, tmp_path: Path) -> None:
    changes = {"trainer.init": plain, "loss.objective": "self-critical", "trainer.epochs": 2, "trainer.patience": 0}
    train(
        data, tmp_path / "run", make_recipe(backbone, {**changes, "decoder.concepts": 4, "decoder.concept_weight": 0.2})
    )
    found, _ = evidence(load_model(open_model(tmp_path / "run/best")), tmp_path / "run/best", data)
    assert np.isfinite(found).all() and found.any()
