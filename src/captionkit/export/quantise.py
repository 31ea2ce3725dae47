"""From a float graph to one that computes in 8 bits, with onnxruntime's quantiser.

Convolutions are quantised statically: the ranges of what they take and give are those met on calibration pictures
(percentiles, so that a few extreme values do not coarsen all others). Matrix products with weights are quantised
dynamically: the range is that of the input at hand. Weights have a scale for each output channel and 7 of the 8 bits:
on processors without VNNI instructions two products of an activation and a weight are summed in 16 bits, which 8 would
overflow.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    CalibrationMethod,
    TensorsData,
    create_calibrator,
)
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode

from captionkit.export.storage import SMALL, store_bytes, store_half, store_tables
from captionkit.runtime import open_session

_STATIC = ["Conv", "Add"]
_PERCENTILE, _BINS = 99.99, 2048


@dataclass(frozen=True)
class Calibrated:
    """What calibration pictures told of a graph."""

    #: ranges of the tensors that are quantised
    ranges: TensorsData
    #: by convolution, what rounding its weights for 8-bit arithmetic takes from the mean of each output channel [O]
    shifts: dict[str, np.ndarray]
    #: the same for the finer rounding of weights that are only stored in 8 bits
    stored_shifts: dict[str, np.ndarray]


def units_of(graph: onnx.ModelProto) -> list[str]:
    """The names of the nodes that can be quantised: convolutions and matrix products with large enough weights."""
    return [node.name for node in graph.graph.node if _weight(graph, node) is not None]


def _weight(graph: onnx.ModelProto, node: onnx.NodeProto) -> np.ndarray | None:
    if node.op_type not in ("Conv", "MatMul", "Gemm"):
        return None
    tensor = next((tensor for tensor in graph.graph.initializer if tensor.name == node.input[1]), None)
    values = None if tensor is None else numpy_helper.to_array(tensor)
    return values if values is not None and (node.op_type == "Conv" or values.size >= SMALL) else None


def calibrate(graph: onnx.ModelProto, images: np.ndarray) -> Calibrated:
    """See what the `images` [N,3,H,W] make of the convolutions of a plain graph."""
    with TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()):  # the calibrator tells of its steps
        path = Path(scratch) / "graph.onnx"
        onnx.save(graph, path)
        calibrator = create_calibrator(
            path,
            _STATIC,
            str(Path(scratch) / "watched.onnx"),
            CalibrationMethod.Percentile,
            extra_options={"percentile": _PERCENTILE, "num_bins": _BINS},
        )
        for image in images:  # one at a time: it holds all of a reader's activations at once
            calibrator.collect_data(_Images(image[None]))
        ranges = calibrator.compute_data()
    means = _means(graph, images)
    quantised_weights = _weights_of(_static(graph, ranges, units_of(graph)))
    stored_weights = _weights_of(store_bytes(_copy(graph)))
    return Calibrated(ranges, *(_shifts(graph, weights, means) for weights in (quantised_weights, stored_weights)))


class _Images(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self._waiting = iter([images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self._waiting, None)
        return None if images is None else {"images": images}


def _weights_of(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The weights that are left once they have been rounded, of those that have been."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    found = {}
    for name, values in stored.items():
        weight, _, kind = name.rpartition("_" if name.endswith("_quantized") else ".")
        scales = {"quantized": f"{weight}_scale", "int8": f"{weight}.scales"}.get(kind, "")
        if scales in stored and values.ndim == 4:
            found[weight] = values * stored[scales].reshape(-1, 1, 1, 1)  # [O,I/g,h,w] * [O,1,1,1]
    return found


def _shifts(
    graph: onnx.ModelProto, rounded: dict[str, np.ndarray], means: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Per convolution, the rounding error of its weights times the mean of its inputs (Nagel et al. 2019, 1906.04721).

    At the borders the mean is that of the whole picture too.
    """
    shifts = {}
    for node in graph.graph.node:
        if node.op_type != "Conv" or node.input[1] not in rounded:
            continue
        lost = (_weight(graph, node) - rounded[node.input[1]]).sum((2, 3))  # [O,I/g,h,w] -> [O,I/g]
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        mean = means[node.input[0]].reshape(groups, -1)  # [I] -> [g,I/g]
        shifts[node.name] = np.einsum("goi,gi->go", lost.reshape(groups, -1, lost.shape[1]), mean).ravel()  # [O]
    return shifts


def _means(graph: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """The mean [C] of each channel of each convolution's input."""
    watched = _copy(graph)
    names = list(dict.fromkeys(node.input[0] for node in graph.graph.node if node.op_type == "Conv"))
    own = {value.name for value in (*watched.graph.output, *watched.graph.input)}
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in own)
    session = open_session(watched.SerializeToString())
    inner = [name for name in names if name != "images"]
    means = {"images": images.mean((0, 2, 3))}
    for image in images:
        for name, value in zip(inner, session.run(inner, {"images": image[None]}), strict=True):
            means[name] = means.get(name, 0) + value.mean((0, 2, 3)) / len(images)
    return means


def quantised(graph: onnx.ModelProto, spared: Collection[str], calibrated: Calibrated | None = None) -> bytes:
    """A plain graph in 8 bits but for the units `spared`, in its most compact storage.

    Convolutions are quantised as they were `calibrated`; without it, there must be none.
    """
    made = _copy(graph)
    if calibrated:
        kept = {name: shift for name, shift in calibrated.stored_shifts.items() if name in spared}
        _correct(made, {name: shift for name, shift in calibrated.shifts.items() if name not in spared} | kept)
    made = _dynamic(made, spared)
    if calibrated:
        made = _static(made, calibrated.ranges, [name for name in units_of(graph) if name not in spared])
    return store_half(store_bytes(store_tables(made))).SerializeToString(deterministic=True)


def _correct(graph: onnx.ModelProto, shifts: dict[str, np.ndarray]) -> None:
    """Give back to the biases what rounding takes from the means."""
    places = {tensor.name: place for place, tensor in enumerate(graph.graph.initializer)}
    for node in graph.graph.node:
        shift = shifts.get(node.name)
        if shift is None:
            continue
        bias = 0.0 if len(node.input) < 3 else numpy_helper.to_array(graph.graph.initializer[places[node.input[2]]])
        name = f"{node.name}.bias"  # a bias of its own, lest another node have it too
        graph.graph.initializer.append(numpy_helper.from_array((bias + shift).astype(np.float32), name))
        del node.input[2:]
        node.input.append(name)


def _dynamic(graph: onnx.ModelProto, spared: Collection[str]) -> onnx.ModelProto:
    small = [n.name for n in graph.graph.node if n.op_type in ("MatMul", "Gemm") and _weight(graph, n) is None]
    quantiser = ONNXQuantizer(
        graph,
        per_channel=True,
        reduce_range=True,
        mode=QuantizationMode.IntegerOps,
        static=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=None,
        nodes_to_quantize=[],
        nodes_to_exclude=[*spared, *small],
        op_types_to_quantize=["MatMul"],
        extra_options={"MatMulConstBOnly": True},
    )
    quantiser.quantize_model()
    return quantiser.model.model


def _static(graph: onnx.ModelProto, ranges: TensorsData, units: Collection[str]) -> onnx.ModelProto:
    copy = _copy(graph)
    nodes = [node.name for node in graph.graph.node if node.op_type == "Conv" and node.name in units]
    if not nodes:
        return copy
    quantiser = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[*nodes, *_sums(graph, nodes)],
        nodes_to_exclude=[],
        op_types_to_quantize=_STATIC,
        extra_options={"WeightSymmetric": True},
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    return _without_zeros(quantiser.model.model)


def _without_zeros(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Leave out zero points of weights and biases, all of which are zero, as is a zero point that is not given."""
    zeros = {tensor.name for tensor in graph.graph.initializer if not numpy_helper.to_array(tensor).any()}
    stored = {tensor.name for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored and set(node.input[2:]) <= zeros:
            del node.input[2:]
    wanted = {name for node in graph.graph.node for name in node.input}
    kept = [tensor for tensor in graph.graph.initializer if tensor.name in wanted]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    return graph


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def _sums(graph: onnx.ModelProto, units: Collection[str]) -> Iterator[str]:
    """The residual sums of two quantised tensors: those can be taken in 8 bits as well."""
    made = {output: node for node in graph.graph.node for output in node.output}
    inside = set()
    for node in graph.graph.node:
        if node.op_type == "Add" and all(
            name in made and (made[name].name in units or made[name].name in inside) for name in node.input
        ):
            inside.add(node.name)
            yield node.name
