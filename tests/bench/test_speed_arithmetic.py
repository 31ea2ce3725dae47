"""FLOPs and weights counted on executed operations, against counts by hand and against torch's own counter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra `train` is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from arithmetic import Counted, Work  # noqa: E402

FLOAT, BYTE = TensorProto.FLOAT, TensorProto.UINT8


def counted(
    scratch: Path, node: Any, images: np.ndarray, weights: dict[str, np.ndarray], out: int = FLOAT, passes: int = 1
) -> Work:
    """The work of a graph of one operation on `x`."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(images.dtype), images.shape)],
        [helper.make_tensor_value_info("y", out, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = Counted(model.SerializeToString(), scratch)
    for _ in range(passes):
        session.run({"x": images, "not an input": images})
    return session.work()


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_a_convolution(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4, strides=[2, 2])
    work = counted(tmp_path, node, floats(2, 3, 8, 8), {"w": floats(5, 3, 3, 3)})
    # 2 images, 5 channels of 4 x 4, each a sum of 3 x 3 x 3 products.
    assert work == Work({"float32": 2 * 2 * 5 * 4 * 4 * 27}, weights=5 * 27 * 4, passes=1)
    assert not list(tmp_path.iterdir())


def test_a_depthwise_convolution(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=6)
    work = counted(tmp_path, node, floats(1, 6, 5, 5), {"w": floats(6, 1, 3, 3)})
    assert work == Work({"float32": 2 * 6 * 3 * 3 * 9}, weights=6 * 9 * 4, passes=1)


def test_a_product_in_several_passes(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    work = counted(tmp_path, node, floats(2, 5, 7), {"w": floats(7, 3)}, passes=3)
    assert work == Work({"float32": 3 * 2 * 2 * 5 * 3 * 7}, weights=7 * 3 * 4, passes=3)


def test_a_transposed_product(tmp_path: Path) -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1)
    work = counted(tmp_path, node, floats(7, 2), {"w": floats(3, 7)})
    assert work == Work({"float32": 2 * 2 * 3 * 7}, weights=3 * 7 * 4, passes=1)


def test_a_product_of_activations_reads_no_weights(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    assert counted(tmp_path, node, floats(4, 4), {}) == Work({"float32": 2 * 4**3}, weights=0, passes=1)


def test_integers_are_counted_apart(tmp_path: Path) -> None:
    product = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    work = counted(tmp_path, product, np.ones((4, 6), np.uint8), {"w": np.ones((6, 5), np.int8)}, TensorProto.INT32)
    assert work == Work({"int8": 2 * 4 * 5 * 6}, weights=30, passes=1)
    inputs = ["x", "s", "z", "w", "s", "zero", "s", "z"]
    weights = {
        "s": np.float32(0.1),
        "z": np.uint8(1),
        "zero": np.int8(0),
        "w": np.ones((2, 3, 3, 3), np.int8),
    }
    conv = helper.make_node("QLinearConv", inputs, ["y"])
    work = counted(
        tmp_path, conv, np.ones((1, 3, 4, 4), np.uint8), {k: np.asarray(v) for k, v in weights.items()}, BYTE
    )
    assert work == Work({"int8": 2 * 2 * 2 * 2 * 27}, weights=2 * 27, passes=1)


def test_the_longer_of_two_times_binds() -> None:
    work = Work({"float32": 600, "int8": 1000}, weights=50, passes=4)
    rates = {"float32": 300.0, "int8": 1000.0}
    assert work.seconds(rates, reading=100.0) == (3.0, "arithmetic")  # 2 + 1 against 200 / 100
    assert work.seconds(rates, reading=50.0) == (4.0, "reading weights")
