"""Weights rounded so that their errors make up for one another."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra `train` is not installed")

from captionkit.data.images import Preprocessing  # noqa: E402
from captionkit.export.quantization.gptq import Inputs, gptq_round  # noqa: E402


def correlated(generator: np.random.Generator, many: int, size: int) -> np.ndarray:
    """Inputs [N,K] with a few causes in common, as channels of a network have them."""
    causes = generator.normal(size=(many, 3)) @ generator.normal(size=(3, size))
    return causes + 0.2 * generator.normal(size=(many, size))


def test_inputs_that_do_not_go_together_leave_plain_rounding():
    weights = np.random.default_rng(0).normal(size=(2, 5, 7))
    scales = np.abs(weights).max(2, keepdims=True) / 64
    found = gptq_round(weights, scales, 64, np.stack([np.diag(np.arange(1.0, 8.0))] * 2))
    np.testing.assert_array_equal(found, np.rint(weights / scales))


def test_outputs_are_nearer_than_with_plain_rounding_on_inputs_never_seen():
    generator = np.random.default_rng(1)
    seen = correlated(generator, 2000, 24)
    train, test = seen[:1000], seen[1000:]
    weights = generator.normal(size=(1, 8, 24))
    scales = np.abs(weights).max(2, keepdims=True) / 7  # coarse, so that rounding matters
    found = gptq_round(weights, scales, 7, (train.T @ train)[None] / len(train))
    plain = np.rint(weights / scales)
    ours, theirs = (np.square(test @ (weights - whole * scales)[0].T).mean() for whole in (found, plain))
    assert np.abs(found).max() <= 7
    assert ours < 0.3 * theirs


def test_nearly_as_good_as_the_best_of_all_roundings():
    generator = np.random.default_rng(2)
    x = correlated(generator, 500, 6)
    weights, together = generator.normal(size=(1, 4, 6)), x.T @ x / 500
    scales = np.full((1, 4, 1), 0.7)
    near = np.floor(weights / scales)[0][:, None] + np.array(list(np.ndindex(*[2] * 6)))  # [4,64,6]
    lost = weights[0][:, None] - near * 0.7
    best = np.einsum("opk,kl,opl->op", lost, together, lost).min(1)
    left = (weights - gptq_round(weights, scales, 64, together[None]) * scales)[0]
    ours = np.einsum("ok,kl,ol->o", left, together, left)
    plain = (weights - np.rint(weights / scales) * scales)[0]
    theirs = np.einsum("ok,kl,ol->o", plain, together, plain)
    assert ours.sum() < 1.2 * best.sum() < 0.5 * theirs.sum()


@pytest.mark.parametrize(
    ("groups", "stride", "pads", "dilation"),
    [(1, 1, [1, 1, 1, 1], 1), (4, 2, [0, 0, 1, 1], 1), (2, 1, [0, 0, 0, 0], 1), (1, 1, [2, 2, 2, 2], 2)],
)
def test_a_convolutions_inputs_are_what_its_kernel_covers(groups, stride, pads, dilation, monkeypatch):
    torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
    generator = np.random.default_rng(3)
    weight = generator.normal(size=(8, 4 // groups, 3, 3)).astype(np.float32)
    value = generator.normal(size=(1, 4, 9, 9)).astype(np.float32)
    node = onnx.helper.make_node(
        "Conv", ["x", "w"], ["y"], group=groups, strides=[stride, stride], pads=pads, dilations=[dilation, dilation]
    )
    monkeypatch.setattr(
        "captionkit.export.quantization.gptq._PLACES", 4000
    )  # so that the mean over them is nearly that over all
    inputs = Inputs(node, weight)
    inputs.add(value)
    padded = torch.nn.functional.pad(torch.from_numpy(value), (pads[1], pads[3], pads[0], pads[2]))
    patches = torch.nn.functional.unfold(padded, 3, dilation=dilation, stride=stride)[0]  # [C*9,N]
    wanted = patches.reshape(groups, -1, patches.shape[1]).mean(2).numpy()
    np.testing.assert_allclose(inputs._sums / inputs._count, wanted, atol=0.1)


@pytest.mark.parametrize(("largest", "rounds_again"), [(40, True), (39, False)])
def test_of_too_many_inputs_each_weight_goes_to_its_nearest(largest, rounds_again, monkeypatch):
    from captionkit.export.quantization import quantize

    monkeypatch.setattr(quantize, "LARGEST", largest)
    generator = np.random.default_rng(5)
    weight = generator.normal(size=(40, 32)).astype(np.float32)
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [None, size]) for name, size in (("x", 40), ("y", 32)))
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["above"], "relu"),
        onnx.helper.make_node("MatMul", ["above", "w"], ["y"], "unit"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], [onnx.numpy_helper.from_array(weight, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    calibrated = quantize.calibrate(model, [{"x": correlated(generator, 50, 40).astype(np.float32)} for _ in range(4)])
    made = onnx.load_from_string(quantize.quantize_graph(model, [], calibrated, Preprocessing()))
    found = next(onnx.numpy_helper.to_array(t) for t in made.graph.initializer if t.name == "w_quantized")
    assert (list(calibrated.rounded) == ["w_quantized"]) is rounds_again
    nearest = np.abs(found - weight / (np.abs(weight).max(0) / 64)).max() <= 0.51
    assert nearest is not rounds_again


def test_a_matrix_keeps_its_shape_and_its_outputs():
    generator = np.random.default_rng(4)
    weight = generator.normal(size=(20, 6)).astype(np.float32)
    inputs = Inputs(onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), weight)
    x = correlated(generator, 400, 20).reshape(4, 100, 20).astype(np.float32)
    for rows in x:
        inputs.add(rows)
    scales = np.abs(weight).max(0) / 64
    found = inputs.round(scales, 64)
    assert found.shape == weight.shape and found.dtype == np.int8
    np.testing.assert_allclose(x @ (found * scales), x @ weight, atol=0.1)
