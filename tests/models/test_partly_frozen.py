"""Training the last stages of an encoder on what its frozen ones computed once; another encoder for a known decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

import torch

from captionkit.errors import RecipeError
from captionkit.inference.model_folder import open_model
from captionkit.models.captioning_model import CaptioningModel
from captionkit.models.encoder import EncoderConfig
from captionkit.models.encoder_registry import build_encoder
from captionkit.models.mobilenet import MobileNet
from captionkit.models.serialization import load_model
from captionkit.training import run_setup
from captionkit.training.data import feature_cache
from captionkit.training.trainer import train
from kept import rows
from shapes import make_recipe, make_shapes

SIZE = {"image.height": 64, "image.width": 64}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data")


@pytest.fixture(autouse=True)
def brief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Path:
    """A model with one of our own encoders, all of it trained for two steps."""
    changes = {"encoder.name": "mobilenet-v2", "encoder.weights": "", "encoder.train": "all", **SIZE}
    train(data, tmp_path / "start", recipe_of(changes), export=False)
    return tmp_path / "start/best"


def recipe_of(changes: dict):
    return make_recipe("", {"trainer.epochs": 1, "trainer.batch_size": 6, **changes})


def last_stages(start: Path, changes: dict | None = None):
    partly = {"trainer.init": start, "encoder.train": "stages", "encoder.first_stage": -2, "optimizer.lr_encoder": 1e-3}
    return recipe_of({**partly, **SIZE, "image.flip": "true", "decoder.feature_dropout": 0, **(changes or {})})


def losses(run: Path) -> list[float]:
    return [row["val_loss"] for row in rows(run, "eval")]


@pytest.mark.slow
def test_last_stages_learn_from_kept_maps_as_from_images(
    data: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(data, tmp_path / "kept", last_stages(start), export=False)
    made = sorted(np.load(path, mmap_mode="r").shape for path in (tmp_path / "cache/features").glob("*.npy"))
    assert made == [(3, 1, 2, 2, 160), (12, 2, 2, 2, 160)]  # [N,views,H,W,C]
    monkeypatch.setattr(MobileNet, "cacheable", property(lambda encoder: encoder.frozen))
    train(data, tmp_path / "recomputed", last_stages(start), export=False)
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "recomputed"), rel=2e-3)
    before, kept, recomputed = (
        load_model(open_model(folder)).encoder
        for folder in (start, tmp_path / "kept/best", tmp_path / "recomputed/best")
    )
    for name, value in kept.named_parameters():
        if name in before.frozen_state() and not name.startswith(("features.17.", "features.18.")):
            assert torch.equal(value, before.get_parameter(name))  # frozen
        torch.testing.assert_close(value, recomputed.get_parameter(name), rtol=0, atol=5e-3)


@pytest.mark.slow
def test_kept_maps_depend_on_the_frozen_stages_alone(data: Path, start: Path, tmp_path: Path) -> None:
    made = run_setup.prepare(last_stages(start), data)
    arguments = {"flips": False, "precision": "no", "shown": lambda items, *_: items}
    encoder = made.model.encoder.eval()

    def files() -> int:
        feature_cache.cached_features(encoder, made.val, made.preprocessing, **arguments)
        return len(list((tmp_path / "cache/features").glob("*.npy")))

    before = files()
    with torch.no_grad():
        encoder.features[-1].conv.weight.mul_(1.5)
    assert files() == before  # a trained stage has another weight
    with torch.no_grad():
        encoder.features[1].project.conv.weight.mul_(1.5)
    assert files() == before + 1
    encoder.train_from(-1)
    assert files() == before + 2


@pytest.mark.slow
def test_crops_and_gradual_unfreezing_keep_nothing(data: Path, start: Path, tmp_path: Path) -> None:
    before = len(list((tmp_path / "cache/features").glob("*.npy")))
    train(data, tmp_path / "unfreezing", last_stages(start, {"encoder.unfreeze_epochs": 0.5}), export=False)
    assert len(list((tmp_path / "cache/features").glob("*.npy"))) == before
    train(data, tmp_path / "cropped", last_stages(start, {"image.random_resized_crop_scale": 0.5}), export=False)
    assert len(list((tmp_path / "cache/features").glob("*.npy"))) == before + 1  # the validation images, as they are


@pytest.mark.slow
def test_a_model_to_start_from_may_be_given_another_encoder(
    data: Path, start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="captionkit")
    weights = tmp_path / "lite.safetensors"
    publish(weights)
    changes = {"trainer.init": start, "encoder.name": "efficientnet-lite2", "encoder.weights": weights, **SIZE}
    made = run_setup.prepare(recipe_of(changes), data)
    old, new = load_model(open_model(start)), made.model
    assert new.config.encoder.name == "efficientnet-lite2" and new.encoder.frozen
    assert made.preprocessing.mean == pytest.approx((127 / 255,) * 3)
    assert all(torch.equal(value, new.decoder.state_dict()[name]) for name, value in old.decoder.state_dict().items())
    assert new.neck[1].weight.shape == (old.neck[1].weight.shape[0], 1280)
    train(data, tmp_path / "run", recipe_of(changes), export=False)
    assert "mobilenet-v2 is replaced by efficientnet-lite2" in caplog.text
    folder = open_model(tmp_path / "run/best")
    assert isinstance(load_model(folder), CaptioningModel) and folder.config["architecture"]["encoder"]["name"] == (
        "efficientnet-lite2"
    )


def publish(path: Path) -> None:
    """Random weights under the names of the published ones."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("efficientnet-lite2"))
    stored = {encoder.published_name(name): value for name, value in encoder.state_dict().items()}
    save_file({name: value for name, value in stored.items() if not name.endswith("num_batches_tracked")}, path)


@pytest.mark.slow
def test_an_encoder_is_named_where_nothing_else_tells_which(data: Path, start: Path, tmp_path: Path) -> None:
    unnamed = {"encoder.name": "", "encoder.weights": start, **SIZE}
    assert run_setup.prepare(recipe_of(unnamed), data).model.config.encoder.name == "mobilenet-v2"
    publish(tmp_path / "lite.safetensors")
    with pytest.raises(RecipeError, match=r"encoder\.name is empty, .* name it"):
        run_setup.prepare(recipe_of({**unnamed, "encoder.weights": tmp_path / "lite.safetensors"}), data)
    with pytest.raises(RecipeError, match=r"encoder of .* is mobilenet-v2, not mobilenet-edgetpu"):
        run_setup.prepare(recipe_of({**unnamed, "encoder.name": "mobilenet-edgetpu"}), data)


def test_a_decoder_that_sees_the_encoders_own_grid_keeps_its_encoder(data: Path, start: Path) -> None:
    model = load_model(open_model(start))
    plain = CaptioningModel(run_setup.replace(model.config, memory=0), 20)
    recipe = recipe_of({"trainer.init": start, "encoder.name": "efficientnet-lite2"})
    with pytest.raises(RecipeError, match=r"takes its own encoder's grid as it is .* leave it out"):
        run_setup._check_kept(recipe, plain)
