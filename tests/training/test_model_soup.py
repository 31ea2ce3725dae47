"""Averaging: the mean is the mean, only what helps is in it, and what does not fit is refused in one line."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
from safetensors.torch import load, save  # noqa: E402

import captionkit  # noqa: E402
from captionkit.cli.main import main  # noqa: E402
from captionkit.data.layouts import open_dataset  # noqa: E402
from captionkit.inference.captioner import Captioner  # noqa: E402
from captionkit.inference.model_folder import WEIGHTS, open_model, update_model  # noqa: E402
from captionkit.models.serialization import load_model, stores_half  # noqa: E402
from captionkit.models.torch_stepper import TorchStepper  # noqa: E402
from captionkit.training.config.decoding import DECODING  # noqa: E402
from captionkit.training.tools.model_soup import average_models, mean_of  # noqa: E402
from real_photos import make_photos  # noqa: E402

Weights = dict[str, "torch.Tensor"]


def changed(to: Path, change: Callable[[Weights], Weights]) -> Path:
    """The bundled model with its decoder's weights changed, in 32 bits and without graphs' help."""
    folder = open_model()
    weights = {name: tensor.float() for name, tensor in load(folder.read(WEIGHTS)).items()}
    update_model(folder, {WEIGHTS: save(change(weights))}, to=to)
    return to


def shifted(strength: float) -> Callable[[Weights], Weights]:
    """Add noise to the decoder, the same each time but for its strength."""

    def change(weights: Weights) -> Weights:
        generator = torch.Generator().manual_seed(0)
        noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in sorted(weights.items())}
        return {
            name: tensor + strength * tensor.std(correction=0) * noise[name] if name.startswith("decoder.") else tensor
            for name, tensor in weights.items()
        }

    return change


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real photographs, with the bundled model's own captions as references, so that no model captions better."""
    pytest.importorskip("skimage", reason="the extra `demo` is not installed")
    model, chosen = captionkit.load(), DECODING.to_dict()
    return make_photos(tmp_path_factory.mktemp("real") / "photos", lambda photo: [model.caption(photo, **chosen).text])


def test_the_mean_is_of_each_tensor_and_counters_are_kept() -> None:
    weights = [
        {"a": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"a": torch.tensor([3.0, 6.0]), "n": torch.tensor(9)},
    ]
    mean = mean_of(weights)
    assert mean["a"].tolist() == [2.0, 4.0] and mean["n"].item() == 3


@pytest.mark.slow
def test_opposite_errors_cancel_and_what_spoils_is_left_out(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two models that err in opposite directions the mean is the model between them."""
    pytest.importorskip("onnxscript", reason="the extra `train` is not installed")
    models = [
        changed(tmp_path / name, shifted(strength)) for name, strength in (("up", 1.5), ("down", -1.5), ("off", 9.0))
    ]
    command = ["average", str(real), *map(str, models), "--output", str(tmp_path / "soup")]
    monkeypatch.setattr("sys.argv", ["captionkit", *command])
    assert main() == 0
    kept = open_model(tmp_path / "soup")
    told = {one["name"]: one for one in kept.config["provenance"]["candidates"]}
    assert {name: one["selected"] for name, one in told.items()} == {"up": True, "down": True, "off": False}
    mean, whole = load_model(kept).state_dict(), load_model(open_model()).state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(mean[name], tensor, atol=1e-5, rtol=1e-4)
    assert not stores_half(kept) and stores_half(open_model())
    images = [example.image for example in open_dataset(real)["val"]]
    settings = {**kept.decoding.to_dict(), "num_captions": 1}
    ours, theirs = captionkit.load(kept.path), Captioner(open_model(), TorchStepper(load_model(open_model())))
    assert [ours.caption(p).text for p in images] == [theirs.caption(p, **settings).text for p in images]
    assert max(one["val_cider"] for one in told.values()) < kept.config["provenance"]["val_cider"]
    printed = capsys.readouterr().out
    assert "left out  CIDEr-D" in printed and "averaged  CIDEr-D" in printed
    card = (kept.path / "README.md").read_text(encoding="utf-8")
    assert (
        "| model off | left out; alone CIDEr-D" in card
        and f"| command | `{shlex.join(['captionkit', *command])}`" in card
    )
    assert main(["inspect", str(kept.path)]) == 0


@pytest.mark.slow
def test_the_mean_is_stored_in_16_bits_if_it_should_be(real: Path, tmp_path: Path) -> None:
    models = [changed(tmp_path / name, shifted(strength)) for name, strength in (("up", 1.5), ("down", -1.5))]
    average_models(real, [str(model) for model in models], tmp_path / "soup", half=True)
    assert stores_half(open_model(tmp_path / "soup")) and not any(stores_half(open_model(str(m))) for m in models)


@pytest.mark.slow
def test_all_are_averaged_where_it_is_asked_for(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also a model that spoils the mean, of which a greedy soup would be without."""
    models = [changed(tmp_path / name, shifted(strength)) for name, strength in (("fine", 0.0), ("off", 9.0))]
    output = tmp_path / "soup"
    assert main(["average", str(real), *map(str, models), "--all", "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert said.count("averaged  CIDEr-D") == 2 and "left out" not in said
    kept = open_model(output)
    expected = mean_of([load_model(open_model(str(model))).state_dict() for model in models])
    for name, tensor in load_model(kept).state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)
    told = kept.config["provenance"]
    assert all(one["selected"] for one in told["candidates"])
    assert told["val_cider"] < max(one["val_cider"] for one in told["candidates"])


def enlarged(folder: Path, to: Path) -> Path:
    """A copy of a model folder that sees larger images."""
    source = open_model(folder)
    return update_model(source, {}, {"preprocessing": {**source.config["preprocessing"], "height": 96}}, to=to).path


def test_what_cannot_be_averaged_is_said_in_a_line(
    real: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = enlarged(untrained, tmp_path / "other")
    output = ["--output", str(tmp_path / "soup")]
    for models, said in (
        ([untrained], "one model has no mean"),
        ([untrained, "bundled"], "its architecture differs from that of"),
        ([untrained, other], "its architecture differs from that of"),
        ([untrained, tmp_path / "none"], "no model folder"),
    ):
        assert main(["average", *map(str, models), str(real), *output]) != 0
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error and not (tmp_path / "soup").exists()
    assert main(["average", str(untrained), str(untrained), str(real), *output, "--split", "nope"]) != 0
    assert "nope" in capsys.readouterr().err
    models = [str(untrained), str(other)]
    assert main(["average", str(real), *models, "--output", str(other)]) != 0
    assert "is one of the models to average" in capsys.readouterr().err
    bundled = str(open_model().path)
    assert main(["average", str(real), "bundled", "bundled", "--output", bundled]) != 0
    assert "is one of the models to average" in capsys.readouterr().err
