"""The ONNX graphs against torch, for every shape that the search will ask for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from captionkit.errors import ModelError
from captionkit.export import export_model as export_folder
from captionkit.export.export_model import export_model
from captionkit.export.graphs import decoder_graph, encoder_graph
from captionkit.export.quantization.weight_compression import store_half
from captionkit.inference.model_folder import DECODER, ENCODER, open_model, update_model
from captionkit.inference.onnx_runtime import OnnxStepper
from captionkit.models.serialization import load_model
from captionkit.models.torch_stepper import TorchStepper

GENERATOR = np.random.default_rng(3)


@pytest.fixture
def copy(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained, tmp_path / "model"))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("beams", [1, 2, 4])
def test_steps_equal_torch(model_folder: Path, count: int, beams: int) -> None:
    opened = open_model(model_folder)
    steppers = [TorchStepper(load_model(opened)), OnnxStepper(opened)]
    images = GENERATOR.standard_normal((count, 3, 64, 96)).astype(np.float32)
    states = [stepper.begin(images) for stepper in steppers]
    width = 1
    for _ in range(4):
        tokens = GENERATOR.integers(4, len(opened.tokenizer), (count, beams))
        parents = GENERATOR.integers(0, width, (count, beams))
        found = [s.step(tokens, parents, state, 3 + beams) for s, state in zip(steppers, states, strict=True)]
        for ours, theirs in zip(found[0][:3], found[1][:3], strict=True):
            assert ours.shape == theirs.shape
            assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-4)
        np.testing.assert_array_equal(found[0][1], found[1][1])
        np.testing.assert_allclose(found[0][2], found[1][2], atol=1e-5)
        states, width = [f[3] for f in found], beams


def test_asking_for_more_than_the_vocabulary(model_folder: Path) -> None:
    opened = open_model(model_folder)
    stepper = OnnxStepper(opened)
    state = stepper.begin(np.zeros((1, 3, 64, 96), np.float32))
    one = np.ones((1, 1), np.int64)
    log_probs, ids, _, _ = stepper.step(one, one * 0, state, 10_000)
    assert log_probs.shape == (1, 1, len(opened.tokenizer))
    assert sorted(ids[0, 0]) == list(range(len(opened.tokenizer)))
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_export_reports_and_keeps_the_report(copy: Path, photos: Path) -> None:
    parity = export_model(copy, images=photos)
    assert parity.same_captions == parity.images == 3
    assert parity.log_prob_difference < 1e-3
    assert "3 of 3 captions the same" in str(parity)
    opened = open_model(copy)
    assert opened.runnable
    assert opened.section("export")["images"] == 3
    opened.verify()


def test_graphs_hold_no_local_paths(model_folder: Path) -> None:
    for name in (ENCODER, DECODER):
        content = (model_folder / name).read_bytes()
        assert str(Path(__file__).resolve().parents[2]).encode() not in content
        assert b"site-packages" not in content


@pytest.mark.slow
def test_a_graph_that_differs_is_not_written(copy: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: object, height: int, width: int) -> onnx.ModelProto:
        model.decoder.output.bias.data.flip(0)
        model.decoder.output.weight.data.neg_()
        graph = decoder_graph(model, height, width)
        model.decoder.output.weight.data.neg_()
        return graph

    before = sorted(p.name for p in copy.iterdir())
    monkeypatch.setattr(export_folder, "decoder_graph", wrong)
    with pytest.raises(ModelError, match="nothing was written"):
        export_model(copy, images=photos)
    assert sorted(p.name for p in copy.iterdir()) == before


def test_folder_without_weights(copy: Path) -> None:
    opened = open_model(copy)
    kept = {name: opened.read(name) for name in opened.config["files"] if name != "model.safetensors"}
    from captionkit.inference.model_folder import write_model

    tables = {key: opened.section(key) for key in ("architecture", "preprocessing", "decoding")}
    write_model(copy, tables, kept)
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        export_model(copy)


@pytest.mark.slow
def test_half_storage_computes_what_halved_weights_compute(copy: Path) -> None:
    opened = open_model(copy)
    model = load_model(opened)
    for parameter in [*model.parameters(), *model.buffers()]:
        if parameter.is_floating_point():
            parameter.data.copy_(parameter.half().float())
    full = [encoder_graph(model, 64, 96), decoder_graph(model, 64, 96)]
    sizes = [len(graph.SerializeToString()) for graph in full]
    half = [store_half(graph) for graph in full]
    assert sum(len(graph.SerializeToString()) for graph in half) < 0.7 * sum(sizes)
    contents = dict(zip((ENCODER, DECODER), (graph.SerializeToString() for graph in half), strict=True))
    stepper = OnnxStepper(update_model(opened, contents))
    images = GENERATOR.standard_normal((2, 3, 64, 96)).astype(np.float32)
    ones = np.ones((2, 1), np.int64)
    ours = stepper.step(ones, ones * 0, stepper.begin(images), 5)
    torch_stepper = TorchStepper(model)
    theirs = torch_stepper.step(ones, ones * 0, torch_stepper.begin(images), 5)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-3)
    np.testing.assert_array_equal(ours[1], theirs[1])
