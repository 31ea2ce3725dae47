"""How much arithmetic ONNX graphs take, counted on the operations that ONNX Runtime really executes.

A multiply-add is two FLOPs; products and convolutions count, elementwise operations do not, as in
`captionkit.models.summary`. What is counted is told apart by the numbers that are multiplied: "float32" or "int8".
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

#: operation -> which of its inputs is the second factor; the first factor is the first input
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
_FIRST = (
    "MatMul",
    "FusedMatMul",
    "Gemm",
    "FusedGemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
)
_PRODUCTS = {**dict.fromkeys(_FIRST, 1), "QLinearMatMul": 3, "QGemm": 3}
_NUMBERS = {"float": ("float32", 4), "int8": ("int8", 1), "uint8": ("int8", 1)}


@dataclass
class Work:
    """What a stage takes: FLOPs by kind of number, and the bytes of weights that are read, each time they are."""

    flops: dict[str, int] = field(default_factory=dict)
    #: bytes of weights in one pass over the graph
    weights: int = 0
    passes: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def seconds(self, rates: Mapping[str, float], reading: float) -> tuple[float, str]:
        """The least time at `rates` FLOPs a second by kind of number and `reading` bytes a second, and what binds."""
        computing = sum(flops / rates[kind] for kind, flops in self.flops.items())
        return max((computing, "arithmetic"), (self.weights * self.passes / reading, "reading weights"))


class Counted:
    """An ONNX graph that counts while it runs."""

    def __init__(self, graph: bytes, scratch: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = os.fspath(scratch / "profile")
        # Repacked weights would be missing from the profile, and reordered ones padded.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._wanted = {entry.name for entry in self._session.get_inputs()}
        self._passes = 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> None:
        """One pass; what the graph does not take is left out."""
        self._session.run(None, {name: value for name, value in inputs.items() if name in self._wanted})
        self._passes += 1

    def work(self) -> Work:
        """All passes since the graph was opened; it cannot run afterwards."""
        profile = Path(self._session.end_profiling())
        events = json.loads(profile.read_text(encoding="utf-8"))
        profile.unlink()
        return work_of((event["args"] for event in events if "op_name" in event.get("args", {})), self._passes)


def work_of(operations: Iterable[Mapping[str, Any]], passes: int) -> Work:
    """The work of what a profile of `passes` passes lists."""
    flops: Counter[str] = Counter()
    read = 0
    for operation in operations:
        place = (_CONVOLUTIONS | _PRODUCTS).get(operation["op_name"])
        if place is None:
            continue
        (_, left), (kind, right) = (_tensor(operation["input_type_shape"][i]) for i in (0, place))
        _, out = _tensor(operation["output_type_shape"][0])
        name, size = _NUMBERS[kind]
        if operation["op_name"] in _CONVOLUTIONS:
            terms = math.prod(right[1:])  # [O,I,h,w]: each output sums over I,h,w
        else:
            terms = left[-1] if len(left) == 1 or left[-2] == out[-2] else left[-2]  # transposed
        flops[name] += 2 * math.prod(out) * terms
        if int(operation["parameter_size"]):  # the second factor is a weight
            read += math.prod(right) * size
    return Work(dict(flops), round(read / max(passes, 1)), passes)


def _tensor(described: Mapping[str, list[int]]) -> tuple[str, list[int]]:
    ((kind, shape),) = described.items()
    return kind, shape
