"""Graphs in 8 bits: they say what the float ones say, are smaller, and tell what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import captionkit
from captionkit.cli.main import main
from captionkit.data.images import Preprocessing, load_image
from captionkit.data.layouts import open_dataset
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import CaptionkitError, ModelError
from captionkit.export.export_model import export_model
from captionkit.export.quantization import mixed_precision
from captionkit.export.quantization.int8 import export_int8
from captionkit.export.quantization.kl_divergence import nats_per_word, trace
from captionkit.export.quantization.quantize import calibrate, quantize_graph, units_of, work_of
from captionkit.export.quantization.weight_compression import plain_graph, store_bytes, store_half, store_tables
from captionkit.inference.captioner import Captioner
from captionkit.inference.model_folder import (
    CARD,
    DECODER,
    ENCODER,
    TOKENIZER,
    WEIGHTS,
    open_model,
    update_model,
    write_model,
)
from captionkit.inference.search import Decoding
from captionkit.models.captioning_model import CaptioningModel, ModelConfig
from captionkit.models.decoder_config import DecoderConfig, ShowAttendTellConfig, ShowTellConfig, TransformerConfig
from captionkit.models.encoder import EncoderConfig
from captionkit.models.serialization import architecture, weights
from captionkit.models.torch_stepper import TorchStepper
from decoders import pack
from tiny_encoder import TINY

SHAPE = (64, 96)
DECODERS: dict[str, DecoderConfig] = {
    "soft": ShowAttendTellConfig(embedding=32, hidden=48, attention=32, dropout=0.0),
    "show-tell": ShowTellConfig(embedding=32, hidden=48, dropout=0.0),
    "transformer": TransformerConfig(width=48, layers=2, heads=4, rows=2, columns=3, dropout=0.0),
}
GENERATOR = np.random.default_rng(5)


def learn(config: DecoderConfig, data: Path, folder: Path, encoder_name: str = TINY) -> Path:
    """A model folder, without graphs, of a decoder that has learnt the images of a split by heart."""
    torch.manual_seed(0)
    examples = list(open_dataset(data)["train"])
    text = Tokenizer.train([example.captions[0] for example in examples], min_frequency=1)
    encoder = EncoderConfig(encoder_name, batch_norm=True)
    model = CaptioningModel(ModelConfig(encoder, config, memory=48, feature_dropout=0.0), len(text)).train()
    preprocessing = Preprocessing(*SHAPE)
    images = torch.from_numpy(np.stack([load_image(example.image, preprocessing) for example in examples]))
    for module in model.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # its statistics become those of these images
    with torch.no_grad():
        features = model.encoder(images)
        features = model.encoder.eval()(images)
    ids = [text.encode(example.captions[0]) for example in examples]
    ids = [[number for number in line if number not in (text.bos_id, text.eos_id)] for line in ids]
    order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
    fed = pack([(place, [text.bos_id, *ids[place]]) for place in order])
    wanted = pack([(place, [*ids[place], text.eos_id]) for place in order]).tokens
    parameters = [*model.neck.parameters(), *model.decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    for _ in range(150):
        decoded = model.decode(model.project(features, model.encoder.grid(*SHAPE)), fed)
        loss = nn.functional.cross_entropy(decoded.logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    model.eval()
    contents = {TOKENIZER: text.to_json().encode(), WEIGHTS: weights(model), CARD: b"# learnt by heart\n"}
    tables = {
        "architecture": architecture(model, preprocessing),
        "preprocessing": preprocessing.to_dict(),
        "decoding": Decoding(num_beams=3, max_length=8).to_dict(),
        "provenance": {},
    }
    return write_model(folder, tables, contents).path


@pytest.fixture(scope="module")
def learnt(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with its float graphs; tests only read it."""
    folder = learn(DECODERS["soft"], data, tmp_path_factory.mktemp("learnt") / "soft")
    export_model(folder, images=data)
    return folder


@pytest.fixture(scope="module")
def small(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a published encoder in 8 bits, evaluated on the images that it has learnt."""
    folder = tmp_path_factory.mktemp("small")
    source = learn(DECODERS["soft"], data, folder / "soft", "mobilenet-v2")
    export_int8(source, folder / "int8", data=data, split="train", max_loss=0.0)
    return folder / "int8"


def sources(data: Path) -> list[Path]:
    return [example.image for example in open_dataset(data)["train"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["show-tell", "transformer"])
def test_captions_learnt_by_heart_survive_quantization(name: str, data: Path, tmp_path: Path) -> None:
    folder = learn(DECODERS[name], data, tmp_path / "model")
    report = export_int8(folder, tmp_path / "int8", images=sources(data))
    assert all(part.nats < 0.002 for part in report.parts)
    assert report.steps[-1].same == 1 and report.steps[-1].cider is None
    opened, small = open_model(folder), open_model(tmp_path / "int8")
    torch_says = Captioner(opened, TorchStepper(captionkit.models.serialization.load_model(opened)))
    pictures = sources(data)
    wanted = [caption.text for caption in torch_says.caption(pictures)]
    assert [caption.text for caption in captionkit.load(small.path).caption(pictures)] == wanted
    assert len(set(wanted)) > 6
    small.verify()
    assert WEIGHTS not in small.config["files"]


def run_as(graph: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The graph as ONNX Runtime runs it here."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


@pytest.mark.slow
def test_a_caption_does_not_depend_on_its_neighbours(small: Path, data: Path) -> None:
    captioner, pictures = captionkit.load(small), sources(data)
    alone, together = (
        [outcome.caption for outcome in captioner.stream(pictures, batch_size=batch)] for batch in (1, len(pictures))
    )
    assert len(pictures) > 2
    for one, other in zip(alone, together, strict=True):
        assert one.text == other.text and one.log_prob == pytest.approx(other.log_prob, abs=1e-4)


@pytest.mark.slow
def test_computed_in_eight_bits(small: Path, tmp_path: Path) -> None:
    """Weights are in the range that is safe without VNNI, and convolutions and products are those of integers."""
    folder = open_model(small)
    stored = [folder.config["files"][name]["bytes"] for name in (ENCODER, DECODER)]
    assert sum(stored) < 0.4 * (small.parent / "soft" / WEIGHTS).stat().st_size
    encoder, decoder = (onnx.load_from_string(folder.read(name)) for name in (ENCODER, DECODER))
    kinds = {tensor.name: tensor for tensor in [*encoder.graph.initializer, *decoder.graph.initializer]}
    quantized_weights = [numpy_helper.to_array(t) for name, t in kinds.items() if name.endswith("_quantized")]
    eight = [values for values in quantized_weights if values.dtype == np.int8]
    assert len(eight) > 40
    assert max(np.abs(values.astype(int)).max() for values in eight) == 64
    assert not any(node.op_type == "DynamicQuantizeLinear" for node in [*encoder.graph.node, *decoder.graph.node])
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in run_as(decoder, tmp_path).graph.node) >= 3
    assert sum(node.op_type == "QuantizeLinear" for node in encoder.graph.node) > 30
    assert not any(node.op_type == "BatchNormalization" for node in encoder.graph.node)


@pytest.mark.slow
def test_report_and_card_and_inspection(small: Path, capsys) -> None:
    told = open_model(small).section("int8")
    assert told["steps"][-1]["cider"] == told["steps"][0]["cider"] > 1
    assert told["steps"][-1]["loss"] == 0 and told["steps"][-1]["same"] == 1
    assert told["steps"][-1]["megabytes"] < told["steps"][0]["megabytes"] / 2
    assert told["graphs"][ENCODER]["units"] > 50
    card = (small / CARD).read_text()
    assert card.startswith("# learnt by heart") and "In 8 bits" in card and "CIDEr-D" in card
    assert main(["inspect", str(small)]) == 0
    assert "in 8 bits" in capsys.readouterr().out


@pytest.mark.slow
def test_captions_without_torch(small: Path, data: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from captionkit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    picture = sources(data)[0]
    done = subprocess.run(
        [sys.executable, "-c", program, "caption", str(picture), "--model", str(small)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert captionkit.load(small).caption(picture).text in done.stdout


@pytest.mark.slow
def test_too_large_a_loss_writes_nothing(learnt: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    def spoilt(graph: onnx.ModelProto, *_: object) -> bytes:
        decodes = any(value.name == "tokens" for value in graph.graph.input)
        other = onnx.ModelProto()
        other.CopyFrom(graph)
        for tensor in other.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim == 2 and decodes:
                tensor.CopyFrom(numpy_helper.from_array(-values, tensor.name))
        return other.SerializeToString()

    monkeypatch.setattr(mixed_precision, "quantize_graph", spoilt)
    with pytest.raises(ModelError, match=r"CIDEr-D falls by .*nothing was written.*--max-loss"):
        export_int8(learnt, tmp_path / "int8", data=data, split="train")
    assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--int8"], "--output"),
        (["--int8", "--output", "OUT", "--half"], "--half"),
        (["--int8", "--output", "OUT", "--limit", "3"], "--evaluate"),
        (["--limit", "3"], "--int8"),
        (["--output", "OUT"], "--int8"),
        (["--int8", "--output", "MODEL"], "float model itself"),
        (["--int8", "--output", "OTHER"], "no model that captionkit wrote"),
        (["--int8", "--output", "OUT", "--evaluate", "DATA", "--max-loss", "2"], "share from 0 to 1"),
        (["--int8", "--output", "OUT", "--evaluate", "DATA", "--limit", "-1"], "limit -1"),
        (["--int8", "--output", "OUT", "--evaluate", "DATA", "--split", "none"], "no split"),
        (["--int8", "--output", "OUT", "--images", "nowhere"], "nowhere"),
    ],
)
def test_wrong_wishes_are_told_in_a_line(
    flags: list[str], reason: str, model_folder: Path, data: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    places = {"OUT": tmp_path / "out", "MODEL": model_folder, "OTHER": tmp_path / "other", "DATA": data}
    assert main(["export", str(model_folder), *(str(places.get(flag, flag)) for flag in flags)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("captionkit: ") and error.count("\n") == 1 and reason in error
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_a_broken_graph_is_named(model_folder: Path, data: Path, tmp_path: Path) -> None:
    broken = update_model(open_model(model_folder), {ENCODER: b"no graph"}, to=tmp_path / "broken")
    with pytest.raises(ModelError, match=r"encoder\.onnx: ONNX Runtime cannot run it"):
        export_int8(broken.path, tmp_path / "out", images=data)


@pytest.mark.slow
def test_a_folder_in_eight_bits_is_no_source(small: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="in 8 bits already"):
        export_int8(small, tmp_path / "out", images=data)


@pytest.mark.slow
def test_weights_are_taken_along_and_exported_again(learnt: Path, data: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    command = ["export", "--int8", "--keep-weights", "--output", str(both), str(learnt), "--images", str(data)]
    assert main(command) == 0
    assert (both / WEIGHTS).read_bytes() == (learnt / WEIGHTS).read_bytes()
    again = tmp_path / "again"
    export_int8(both, again, images=data)  # from the weights, as its graphs are in 8 bits
    assert (again / CARD).read_text().count("In 8 bits") == 1
    export_model(both, images=data)
    assert "int8" not in open_model(both).config and "In 8 bits" not in (both / CARD).read_text()


@pytest.mark.slow
def test_evaluation_data_without_captions(learnt: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionkitError):
        export_int8(learnt, tmp_path / "out", data=photos)


class Fixed:
    """A stepper that expects the same words at every step."""

    def __init__(self, probabilities: list[float]) -> None:
        self.log_probs = np.log(np.array(probabilities, np.float32))

    def begin(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"state.h": np.zeros((len(images), 1, 2), np.float32)}

    def step(self, tokens: np.ndarray, parents: np.ndarray, state: dict[str, np.ndarray], top_k: int):
        ids = np.argsort(-self.log_probs, kind="stable")
        shape = (*tokens.shape, len(ids))
        return np.broadcast_to(self.log_probs[ids], shape), np.broadcast_to(ids, shape), None, state


def test_drift_is_the_divergence_of_what_is_expected() -> None:
    text = Tokenizer.train(["a dog runs"], min_frequency=1)
    share = 1 / len(text)
    exact = Fixed([0.5 + share / 2] + [share / 2] * (len(text) - 1))
    other = Fixed([0.25 + 0.75 * share] + [0.75 * share] * (len(text) - 1))
    traced = trace(exact, np.zeros((3, 3, 4, 4), np.float32), text)
    assert nats_per_word(traced, traced.state, exact) == pytest.approx(0, abs=1e-7)
    p, q = (torch.tensor(np.exp(stepper.log_probs)).double() for stepper in (exact, other))
    wanted = torch.distributions.kl_divergence(torch.distributions.Categorical(p), torch.distributions.Categorical(q))
    assert nats_per_word(traced, traced.state, other) == pytest.approx(float(wanted), rel=1e-4)
    assert traced.first(2).tokens.shape == (2, traced.tokens.shape[1])


def convolution(weight: np.ndarray, groups: int = 1) -> onnx.ModelProto:
    """images -> convolution with bias -> ReLU -> found."""
    outputs = len(weight)
    bias = GENERATOR.standard_normal(outputs).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weight", "bias"], ["made"], "conv", group=groups),
            helper.make_node("Relu", ["made"], ["found"], "relu"),
        ],
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", weight.shape[1] * groups, 12, 12])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["n", outputs, 12, 12])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return plain_graph(model.SerializeToString())


def outputs_of(content: bytes, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_biases_take_back_what_rounding_shifts(groups: int) -> None:
    images = GENERATOR.uniform(0.5, 1, (8, 6, 12, 12)).astype(np.float32)
    # One large weight in each channel makes all others coarse.
    weight = GENERATOR.uniform(0.001, 0.02, (6, 6 // groups, 1, 1)).astype(np.float32)
    weight[:, 0] = 1
    graph = convolution(weight, groups)
    calibrated = calibrate(graph, [{"images": image[None]} for image in images])
    exact = outputs_of(graph.SerializeToString(), images).mean((0, 2, 3))
    calibrated_means = outputs_of(quantize_graph(graph, [], calibrated, Preprocessing()), images).mean((0, 2, 3))
    for name in calibrated.shifts:
        calibrated.shifts[name][:] = 0
    without = outputs_of(quantize_graph(graph, [], calibrated, Preprocessing()), images).mean((0, 2, 3))
    assert np.abs(calibrated_means - exact).max() < 0.01
    if groups < 6:
        assert np.abs(calibrated_means - exact).max() < np.abs(without - exact).max() / 2


def test_units_and_their_work() -> None:
    graph = convolution(GENERATOR.standard_normal((4, 2, 1, 1)).astype(np.float32), groups=3)
    assert units_of(graph) == ["conv"]
    assert work_of(graph) == {"conv": 4 * 2 * 144}


def gathering(table: np.ndarray, weight: np.ndarray) -> onnx.ModelProto:
    """rows of `table` -> product with `weight`."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "rows"], ["embedded"], "gather"),
            helper.make_node("MatMul", ["embedded", "weight"], ["found"], "product"),
        ],
        "graph",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_storage_gives_back_what_was_stored() -> None:
    table = (GENERATOR.standard_normal((50, 128)) * GENERATOR.uniform(0.1, 9, (50, 1))).astype(np.float32)
    weight = (GENERATOR.standard_normal((128, 160)) * GENERATOR.uniform(0.1, 9, 160)).astype(np.float32)
    table[7] = 0
    model = gathering(table, weight)
    size = len(model.SerializeToString())
    rows = np.array([3, 7, 49, 3])
    small = store_half(store_bytes(store_tables(model))).SerializeToString()
    assert len(small) < 0.3 * size
    found = ort.InferenceSession(small, providers=["CPUExecutionProvider"]).run(None, {"rows": rows})[0]
    coarse = np.abs(table).max(0) / 254, np.abs(weight).max(0) / 254  # of each column
    bound = coarse[0] @ np.abs(weight) + (np.abs(table[rows]).sum(1, keepdims=True) + coarse[0].sum()) * coarse[1]
    assert (np.abs(found - table[rows] @ weight) <= bound * 1.01 + 1e-4).all()
    assert np.abs(found - table[rows] @ weight).max() > 0
    assert not found[1].any()


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_dense_layer_is_stored_in_bytes(transposed: int) -> None:
    weight = (GENERATOR.standard_normal((128, 160)) * GENERATOR.uniform(0.1, 9, 160)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["values", "weight"], ["found"], "dense", transB=transposed)],
        "graph",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["n", 128])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["n", 160])],
        [numpy_helper.from_array(weight.T.copy() if transposed else weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    values = GENERATOR.standard_normal((3, 128)).astype(np.float32)
    size, stored = len(model.SerializeToString()), store_bytes(model).SerializeToString()
    assert len(stored) < 0.3 * size
    found = ort.InferenceSession(stored, providers=["CPUExecutionProvider"]).run(None, {"values": values})[0]
    bound = np.abs(values).sum(1, keepdims=True) * np.abs(weight).max(0) / 254  # one scale per output channel
    assert (np.abs(found - values @ weight) <= bound * 1.01 + 1e-4).all()


def test_a_table_that_two_look_up_is_stored_once() -> None:
    table = GENERATOR.standard_normal((50, 128)).astype(np.float32)
    model = gathering(table, np.eye(128, dtype=np.float32))
    second = helper.make_node("Gather", ["table", "rows"], ["also"], "again")
    model.graph.node.append(second)
    model.graph.output.append(helper.make_tensor_value_info("also", TensorProto.FLOAT, ["n", 128]))
    stored = store_tables(model)
    assert [tensor.name for tensor in stored.graph.initializer].count("table.int8") == 1
    session = ort.InferenceSession(stored.SerializeToString(), providers=["CPUExecutionProvider"])
    first, also = session.run(None, {"rows": np.array([3, 7])})
    np.testing.assert_allclose(first, also, atol=1e-6)
    np.testing.assert_allclose(also, table[[3, 7]], atol=np.abs(table).max() / 250)


@pytest.mark.slow
def test_evaluating_from_the_command_line(learnt: Path, data: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--int8", "--output", tmp_path / "out", "--evaluate", data, "--split", "train", "--limit", 5]
    assert main(["export", str(learnt), *map(str, arguments)]) == 0
    out = capsys.readouterr().out
    assert "compared on 5 images" in out and "decoder too" in out and "100.0%" in out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["int8"]["steps"][0]["same"] == 1
