"""What the machine can do at most: measured rates of products, convolutions and reading.

A rate is the best of several shapes and repetitions, among the shapes those of the bundled encoder's heaviest layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from speed_cases import READING, megabytes_of

_MEGABYTE = 1 << 20


class Conv(NamedTuple):
    """A 3 x 3 convolution of stride 1."""

    batch: int
    channels: int
    filters: int
    side: int

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.filters * self.side**2 * self.channels * 9


SQUARES = (512, 1024, 2048)
CONVS = (Conv(1, 32, 128, 56), Conv(8, 32, 128, 56), Conv(1, 48, 192, 28), Conv(1, 128, 128, 56))
Work = tuple[float, Callable[[], object]]  # FLOPs or bytes, and what takes them


class Machine:
    """A turn of a case is its rate: FLOPs or bytes a second."""

    def __init__(
        self,
        threads: int,
        squares: Sequence[int] = SQUARES,
        convs: Sequence[Sequence[int]] = CONVS,
        seconds: float = 0.4,
    ) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self._threads, self._squares, self._seconds = threads, squares, seconds
        self._convs = [*map(Conv._make, convs)]
        self._works: dict[str, list[Work]] = {}

    def prepare(self, case: str) -> dict[str, Any]:
        """Make what the case works on."""
        if case.startswith(READING):
            self._works[case] = [self._read(megabytes_of(case))]
        elif case == "int8":
            self._works[case] = [
                *(work for n in self._squares for work in (self._int8_product(n), self._torch_int8_product(n))),
                *map(self._int8_conv, self._convs),
            ]
        else:
            kind = getattr(torch, case)
            self._works[case] = [
                *(self._product(n, kind) for n in self._squares),
                *(self._conv(conv, kind) for conv in self._convs),
            ]
        return {}

    @torch.inference_mode()
    def run(self, case: str) -> dict[str, Any]:
        """The best rate of a turn, which lasts `seconds` for all shapes together."""
        works = self._works[case]
        best = 0.0
        for amount, work in works:
            work()
            until = time.perf_counter() + self._seconds / len(works)
            while (start := time.perf_counter()) < until:
                work()
                best = max(best, amount / (time.perf_counter() - start))
        return {"rate": best}

    def _product(self, n: int, kind: torch.dtype) -> Work:
        a, b = torch.randn(n, n).to(kind), torch.randn(n, n).to(kind)
        return 2 * n**3, lambda: a @ b

    def _conv(self, conv: Conv, kind: torch.dtype) -> Work:
        images = torch.randn(conv.batch, conv.channels, conv.side, conv.side).to(kind)  # [B,C,H,W]
        weight = torch.randn(conv.filters, conv.channels, 3, 3).to(kind)
        images, weight = (t.contiguous(memory_format=torch.channels_last) for t in (images, weight))
        return conv.flops, lambda: functional.conv2d(images, weight, padding=1)

    def _torch_int8_product(self, n: int) -> Work:
        a, b = (torch.randint(-127, 127, (n, n), dtype=torch.int8) for _ in range(2))
        return 2 * n**3, lambda: torch._int_mm(a, b)

    def _int8_product(self, n: int) -> Work:
        generator = np.random.default_rng(0)
        a = generator.integers(0, 255, (n, n), np.uint8)
        node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
        weights = {"w": generator.integers(-127, 127, (n, n), np.int8)}
        session = self._session(node, a, weights, TensorProto.INT32)
        return 2 * n**3, lambda: session.run(None, {"x": a})

    def _int8_conv(self, conv: Conv) -> Work:
        generator = np.random.default_rng(0)
        images = generator.integers(0, 255, (conv.batch, conv.channels, conv.side, conv.side), np.uint8)
        names = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
        weights = {
            **dict.fromkeys(("x_scale", "w_scale", "y_scale"), np.float32(0.1)),
            **dict.fromkeys(("x_zero", "y_zero"), np.uint8(128)),
            "w_zero": np.int8(0),
            "w": generator.integers(-127, 127, (conv.filters, conv.channels, 3, 3), np.int8),
        }
        node = helper.make_node("QLinearConv", names, ["y"], pads=[1] * 4)
        session = self._session(node, images, weights, TensorProto.UINT8)
        return conv.flops, lambda: session.run(None, {"x": images})

    def _session(self, node: onnx.NodeProto, x: np.ndarray, weights: dict[str, Any], out: int) -> ort.InferenceSession:
        graph = helper.make_graph(
            [node],
            "rate",
            [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
            [helper.make_tensor_value_info("y", out, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def _read(self, megabytes: int) -> Work:
        matrix = torch.ones(megabytes * _MEGABYTE // 2048, 512)  # float32
        vector = torch.ones(512)
        return megabytes * _MEGABYTE, lambda: matrix @ vector
