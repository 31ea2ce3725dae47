"""A decoder's graph with fewer operators, and an encoder's that takes bytes, against those they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
onnx = pytest.importorskip("onnx", reason="the extra `train` is not installed")

from onnx import numpy_helper  # noqa: E402

from captionkit.data.images import Preprocessing, load_image, open_image, preprocess_bytes, to_bytes  # noqa: E402
from captionkit.data.tokenizer import Tokenizer  # noqa: E402
from captionkit.errors import ModelError  # noqa: E402
from captionkit.export.graphs import decoder_graph, encoder_graph  # noqa: E402
from captionkit.export.quantization import graph_passes  # noqa: E402
from captionkit.export.quantization.graph_passes import optimize_graph  # noqa: E402
from captionkit.export.quantization.quantize import calibrate, quantize_graph  # noqa: E402
from captionkit.export.quantization.weight_compression import plain_graph  # noqa: E402
from captionkit.inference.model_folder import DECODER, ENCODER, TOKENIZER, ModelFolder, open_model, write_model  # noqa: E402
from captionkit.inference.onnx_runtime import OnnxStepper, open_session  # noqa: E402
from captionkit.inference.search import Decoding  # noqa: E402
from captionkit.models.captioning_model import CaptioningModel, ModelConfig  # noqa: E402
from captionkit.models.decoder_config import DecoderConfig, ShowTellConfig, TransformerConfig  # noqa: E402
from captionkit.models.encoder import EncoderConfig  # noqa: E402
from captionkit.models.serialization import architecture  # noqa: E402
from tiers import slow  # noqa: E402
from tiny_encoder import TINY  # noqa: E402

PICTURES = 3


def plain(folder: ModelFolder, name: str = DECODER) -> onnx.ModelProto:
    return plain_graph(folder.read(name))


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def traced(folder: ModelFolder, decoder: onnx.ModelProto) -> list[np.ndarray]:
    """All that a decoder says in four steps of several images and beams."""
    stepper = OnnxStepper(folder, graphs={DECODER: decoder.SerializeToString()})
    generator = np.random.default_rng(2)
    state = stepper.begin(generator.standard_normal((PICTURES, 3, 64, 96)).astype(np.float32))
    said: list[np.ndarray] = []
    before = 1
    for beams in (1, 4, 2, 5):
        tokens = generator.integers(4, len(folder.tokenizer), (PICTURES, beams))
        parents = generator.integers(0, before, (PICTURES, beams))
        *found, state = stepper.step(tokens, parents, state, 10_000)
        log_probs, ids, attention = found
        order = np.argsort(ids, axis=2)
        said += [np.take_along_axis(log_probs, order, 2), attention]
        before = beams
    return said


DECODERS: dict[str, DecoderConfig] = {
    "show-tell": ShowTellConfig(embedding=24, hidden=32),
    "transformer": TransformerConfig(width=24, layers=2, heads=2, rows=2, columns=3),
}


@pytest.fixture(scope="module", params=["soft", *slow("show-tell", "transformer")])
def decoding(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_folder: Path
) -> ModelFolder:
    """A folder with the graphs of a model with random weights; soft attention is that of `model_folder`."""
    if request.param == "soft":
        return open_model(model_folder)
    torch.manual_seed(0)
    text, preprocessing = (
        Tokenizer.train(["two cats sleep on a man's red boat"] * 2, min_frequency=1),
        Preprocessing(64, 96),
    )
    config = ModelConfig(EncoderConfig(TINY, batch_norm=True), DECODERS[request.param], memory=24)
    model = CaptioningModel(config, len(text)).eval()
    graphs = {ENCODER: encoder_graph(model, 64, 96), DECODER: decoder_graph(model, 64, 96)}
    contents = {name: graph.SerializeToString() for name, graph in graphs.items()}
    tables = {
        "architecture": architecture(model, preprocessing),
        "preprocessing": preprocessing.to_dict(),
        "decoding": Decoding().to_dict(),
        "provenance": {},
    }
    return write_model(
        tmp_path_factory.mktemp("decoding") / "model", tables, {TOKENIZER: text.to_json().encode(), **contents}
    )


def test_every_decoder_says_the_same(decoding: ModelFolder) -> None:
    folder, graph = decoding, plain(decoding)
    before = kinds(graph)
    expected = traced(folder, graph)
    quick = optimize_graph(graph)
    for found, wanted in zip(traced(folder, quick), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    states = sum(value.name.startswith("state.") for value in quick.graph.input)
    assert kinds(quick).count("GatherND") == states
    assert kinds(quick).count("Range") < before.count("Range")
    assert len(kinds(quick)) < len(before)


def test_words_are_looked_up_where_their_table_is_not_too_large(model_folder: Path, monkeypatch) -> None:
    folder = open_model(model_folder)
    weighed = sum(kind == "MatMul" for kind in kinds(plain(folder)))
    assert kinds(optimize_graph(plain(folder))).count("MatMul") == weighed - 1
    monkeypatch.setattr(graph_passes, "_LARGEST", 10)
    assert kinds(optimize_graph(plain(folder))).count("MatMul") == weighed


@pytest.mark.parametrize(("shape", "left"), [((6,), []), ((1, 1, 6), ["Add"]), ((3, 6), ["Add"])])
def test_only_a_plain_bias_goes_into_the_table(shape: tuple[int, ...], left: list[str]) -> None:
    generator = np.random.default_rng(1)
    stored = {"table": (9, 4), "weight": (4, 6), "bias": shape}
    tensors = [
        numpy_helper.from_array(generator.normal(size=size).astype(np.float32), name) for name, size in stored.items()
    ]
    nodes = [
        onnx.helper.make_node("Gather", ["table", "tokens"], ["embedded"], "look"),
        onnx.helper.make_node("MatMul", ["embedded", "weight"], ["product"], "multiply"),
        onnx.helper.make_node("Add", ["product", "bias"], ["found"], "add"),
    ]
    given = onnx.helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, ["b", 3])
    found = onnx.helper.make_tensor_value_info("found", onnx.TensorProto.FLOAT, ["b", 3, 6])
    graph = onnx.helper.make_graph(nodes, "g", [given], [found], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    feed = {"tokens": generator.integers(0, 9, (2, 3))}
    wanted = open_session(model.SerializeToString()).run(None, feed)[0]
    quick = optimize_graph(model)
    assert kinds(quick) == ["Gather", *left]
    np.testing.assert_allclose(open_session(quick.SerializeToString()).run(None, feed)[0], wanted, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("decoding", ["transformer"], indirect=True)
def test_graphs_that_do_not_belong_together_are_refused(decoding: ModelFolder, model_folder: Path) -> None:
    other = open_model(model_folder)
    with pytest.raises(ModelError, match=r"decoder\.onnx asks for memory.*encoder\.onnx does not give; export both"):
        OnnxStepper(other, graphs={DECODER: decoding.read(DECODER)})


def test_what_is_used_elsewhere_stays(model_folder: Path) -> None:
    folder = open_model(model_folder)
    graph = plain(folder)
    picked = next(node for node in graph.graph.node if node.op_type == "Gather" and "Reshape" in made_by(graph, node))
    graph.graph.output.append(onnx.helper.make_tensor_value_info(picked.output[0], onnx.TensorProto.FLOAT, ["n", "h"]))
    graph.graph.node.append(onnx.helper.make_node("Identity", [picked.output[0]], ["kept"], "kept"))
    states = sum(value.name.startswith("state.") for value in graph.graph.input)
    assert kinds(optimize_graph(graph)).count("GatherND") == states - 1


def made_by(graph: onnx.ModelProto, node: onnx.NodeProto) -> str:
    return next((maker.op_type for maker in graph.graph.node if node.input[0] in maker.output), "")


@pytest.fixture
def entered(model_folder: Path, photos: Path) -> tuple[ModelFolder, onnx.ModelProto, list[Path]]:
    """A folder, its encoder's plain graph, and images."""
    folder = open_model(model_folder)
    return folder, plain(folder, ENCODER), sorted(photos.iterdir())


@pytest.mark.slow
def test_bytes_give_what_floats_give(entered) -> None:
    folder, graph, pictures = entered
    images = [load_image(path, folder.preprocessing)[None] for path in pictures]
    calibrated = calibrate(graph, [{"images": image} for image in images])
    neutral = Preprocessing(64, 96, mean=(0.5, 0.5, 0.4))
    with_floats = OnnxStepper(folder, graphs={ENCODER: quantize_graph(graph, [], calibrated, neutral)})
    with_bytes = OnnxStepper(folder, graphs={ENCODER: quantize_graph(graph, [], calibrated, folder.preprocessing)})
    exact = OnnxStepper(folder)
    assert (exact.takes_bytes, with_floats.takes_bytes, with_bytes.takes_bytes) == (False, False, True)
    for path, image in zip(pictures, images, strict=True):
        opened = open_image(path, target=(folder.preprocessing.height, folder.preprocessing.width))
        pixels = preprocess_bytes(opened, folder.preprocessing)[None]
        wanted, rounded = exact.begin(image), with_floats.begin(image)
        found, converted = with_bytes.begin(pixels), with_bytes.begin(image)
        for name, value in wanted.items():
            assert np.array_equal(found[name], converted[name])
            off = np.abs(found[name] - value).mean()
            assert off < 1.5 * np.abs(rounded[name] - value).mean() + 1e-4, name


@pytest.mark.slow
def test_the_fourth_byte_means_nothing(entered) -> None:
    folder, graph, pictures = entered
    images = [load_image(path, folder.preprocessing)[None] for path in pictures]
    content = quantize_graph(graph, [], calibrate(graph, [{"images": image} for image in images]), folder.preprocessing)
    session = open_session(content)
    pixels = to_bytes(np.concatenate(images), folder.preprocessing)
    found = session.run(None, {"pixels": pixels})
    pixels[..., 3] = np.random.default_rng(0).integers(0, 256, pixels.shape[:3])
    assert all(np.array_equal(a, b) for a, b in zip(found, session.run(None, {"pixels": pixels}), strict=True))


@pytest.mark.slow
def test_pictures_that_do_not_enter_by_an_8_bit_convolution_stay_floats(entered) -> None:
    folder, graph, pictures = entered
    calibrated = calibrate(graph, [{"images": load_image(path, folder.preprocessing)[None]} for path in pictures])
    first = next(node.name for node in graph.graph.node if node.op_type == "Conv")
    made = onnx.load_from_string(quantize_graph(graph, [first], calibrated, folder.preprocessing))
    assert [value.name for value in made.graph.input] == ["images"]


@pytest.mark.slow
def test_a_mean_between_two_bytes_moves_no_output(entered) -> None:
    """0.5 is 127.5 of 255: the zero point is off by half a byte, which the biases take back."""
    folder, graph, pictures = entered
    images = [load_image(path, folder.preprocessing)[None] for path in pictures]
    calibrated = calibrate(graph, [{"images": image} for image in images])
    made = onnx.load_from_string(quantize_graph(graph, [], calibrated, folder.preprocessing))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert values["pixels_zero_point"] == 128
    assert values["pixels_scale"] == pytest.approx(1 / 127.5)
    convolution = next(node for node in made.graph.node if node.op_type == "Conv")
    makers = {output: node for node in made.graph.node for output in node.output}
    weight, bias = (makers[name].input for name in convolution.input[1:])
    kernel = values[weight[0]].astype(np.float64) * values[weight[1]].reshape(-1, 1, 1, 1)
    assert kernel.shape[1] == 4 and not kernel[:, 3].any()
    # A grey image, far from the border: every input is x, so an output is its bias plus x times its kernel's sum.
    for byte in (0, 37, 255):
        wanted = kernel.sum((1, 2, 3)) * (byte - 127.5) / 127.5
        told = (byte - 128) / 127.5 * kernel.sum((1, 2, 3)) + values[bias[0]] * values[bias[1]]
        stored = told - wanted
        if byte == 0:
            first = stored
        np.testing.assert_allclose(stored, first, atol=1e-6)  # the plain bias, whatever the image
