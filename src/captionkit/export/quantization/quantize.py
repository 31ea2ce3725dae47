"""Static 8-bit quantization of a float graph with onnxruntime's quantizer.

The ranges of the inputs and outputs of convolutions, and of the inputs of matrix products with weights, are found on
calibration images; extreme values are clipped if that lowers the squared error overall. Since ranges are fixed, a
caption does not depend on the other images in the batch. Weights have one scale per output channel and use 7 of the 8
bits: on CPUs without VNNI instructions two products of an activation and a weight are summed in 16 bits, which 8-bit
weights would overflow. captionkit.export.quantization.gptq rounds them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from captionkit.data.images import Preprocessing
from captionkit.export.quantization.gptq import LARGEST, Inputs, inputs_of
from captionkit.export.quantization.uint8_input import accept_uint8
from captionkit.export.quantization.weight_compression import SMALL, store_bytes, store_half, store_tables
from captionkit.inference.onnx_runtime import open_session

_STATIC = ["Conv", "MatMul", "Relu", "Clip", "Add"]
Feed = Mapping[str, np.ndarray]
#: number of values sampled per tensor and image to find its range, and the shares of the full range that are tried
_SAMPLES, _SHARES = 4096, np.linspace(0.2, 1, 33)
_LEVELS = 255
#: the largest weight magnitude in 7 bits
_REACH = 64


@dataclass(frozen=True)
class Calibrated:
    """The result of calibrating a graph."""

    #: ranges of the quantized tensors
    ranges: TensorsData
    #: by name in the quantized graph, the weights rounded for 8-bit arithmetic
    rounded: dict[str, np.ndarray]
    #: by convolution, the decrease of each output channel's mean [O] from rounding its weights for 8-bit arithmetic
    shifts: dict[str, np.ndarray]
    #: the same for the finer rounding of weights that are only stored in 8 bits
    stored_shifts: dict[str, np.ndarray]


def units_of(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that can be quantized: convolutions and matrix products with large weights."""
    return list(work_of(graph))


def work_of(graph: onnx.ModelProto) -> dict[str, int]:
    """Return the multiply-adds of each node that can be quantized: per image, or per input row of a matrix product."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.graph.value_info}
    cells = {name: max(shape[2].dim_value * shape[3].dim_value, 1) for name, shape in shapes.items() if len(shape) == 4}
    weights = {node.name: (_weight(graph, node), node) for node in graph.graph.node}
    return {
        name: weight.size * (cells.get(node.output[0], 1) if node.op_type == "Conv" else 1)
        for name, (weight, node) in weights.items()
        if weight is not None
    }


def _weight(graph: onnx.ModelProto, node: onnx.NodeProto) -> np.ndarray | None:
    if node.op_type not in ("Conv", "MatMul", "Gemm"):
        return None
    tensor = next((tensor for tensor in graph.graph.initializer if tensor.name == node.input[1]), None)
    values = None if tensor is None else numpy_helper.to_array(tensor)
    return values if values is not None and (node.op_type == "Conv" or values.size >= SMALL) else None


def calibrate(graph: onnx.ModelProto, feeds: Iterable[Feed]) -> Calibrated:
    """Calibrate a plain graph by running it on `feeds`, each of which maps input names to values."""
    ranges, means, inputs = _seen(graph, feeds)
    made = _static(graph, ranges, units_of(graph))
    rounded = _rounded(graph, made, inputs)
    _replace(made, rounded)
    weights = _weights_of(made), _weights_of(store_bytes(_copy(graph)))
    return Calibrated(ranges, rounded, *(_shifts(graph, found, means) for found in weights))


def _seen(
    graph: onnx.ModelProto, feeds: Iterable[Feed]
) -> tuple[TensorsData, dict[str, np.ndarray], dict[str, Inputs]]:
    """Run the graph on `feeds`; return tensor ranges, channel means [C] of convolution inputs and input statistics."""
    watched, units = _copy(graph), units_of(graph)
    nodes = [
        node
        for node in graph.graph.node
        if node.op_type in _STATIC and (node.op_type != "MatMul" or node.name in units)
    ]
    wanted = dict.fromkeys(
        name
        for node in nodes
        for name in (node.input[:1] if node.op_type == "MatMul" else (node.input[0], *node.output))
    )
    given, own = ({value.name for value in values} for values in (graph.graph.input, graph.graph.output))
    names = [name for name in wanted if name not in given]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in own)
    session, generator = open_session(watched.SerializeToString()), np.random.default_rng(0)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    means: dict[str, list[np.ndarray]] = {node.input[0]: [] for node in nodes if node.op_type == "Conv"}
    weights = ((node, _weight(graph, node)) for node in nodes if node.name in units)
    inputs = {
        node.name: Inputs(node, weight)
        for node, weight in weights
        if weight is not None and inputs_of(node, weight) <= LARGEST
    }
    for feed in feeds:
        found = {**feed, **dict(zip(names, session.run(names, feed), strict=True))}
        for name in wanted:
            value = found[name]
            if name in means:
                means[name].append(value.mean((0, 2, 3)))  # [B,C,H,W] -> [C]
            flat = value.ravel()
            few = flat[generator.integers(flat.size, size=min(flat.size, _SAMPLES))]
            samples[name].append(np.concatenate([few, [flat.min(), flat.max()]]))
        for node in nodes:
            if node.name in inputs:
                inputs[node.name].add(found[node.input[0]])
    ranges = {name: _range(np.concatenate(values)) for name, values in samples.items()}
    channels = {name: np.mean(values, 0) for name, values in means.items()}
    return TensorsData(CalibrationMethod.MinMax, ranges), channels, inputs


def _rounded(graph: onnx.ModelProto, made: onnx.ModelProto, inputs: Mapping[str, Inputs]) -> dict[str, np.ndarray]:
    """Return the units' weights rounded to the scales of the quantized graph `made`, by their names in it."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    weights = {node.name: node.input[1] for node in graph.graph.node if node.name in inputs}
    return {
        f"{weight}_quantized": inputs[unit].round(stored[f"{weight}_scale"], _REACH) for unit, weight in weights.items()
    }


def _replace(graph: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> None:
    for tensor in graph.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))


def _range(values: np.ndarray) -> TensorData:
    """Return the range, including 0, that quantizes `values` to 8 bits with the least squared error, with clipping."""
    low, high = min(values.min(), 0), max(values.max(), 0)
    errors = []
    for share in _SHARES:
        step = max((high - low) * share / _LEVELS, np.finfo(np.float32).tiny)
        quantized = np.rint(values.clip(low * share, high * share) / step) * step
        errors.append(((values - quantized) ** 2).mean())
    share = _SHARES[int(np.argmin(errors))]
    return TensorData(lowest=np.float32(low * share), highest=np.float32(high * share))


def _weights_of(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the dequantized values of the rounded convolution weights, by the name of the float weight."""
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
    """Return per convolution the rounding error of its weights times the mean of its inputs.

    This is the bias correction of Nagel et al. 2019 (arXiv 1906.04721). The mean is that of the whole image, at the
    borders too.
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


def quantize_graph(
    graph: onnx.ModelProto, float_units: Collection[str], calibrated: Calibrated, preprocessing: Preprocessing
) -> bytes:
    """Quantize a plain graph to 8 bits as `calibrated`, except the units `float_units`; return it in compact storage.

    If possible, the graph takes bytes instead of images normalised by `preprocessing`: see `accept_uint8`.
    """
    made = _copy(graph)
    kept = {name: shift for name, shift in calibrated.stored_shifts.items() if name in float_units}
    _correct(made, {name: shift for name, shift in calibrated.shifts.items() if name not in float_units} | kept)
    made = _static(made, calibrated.ranges, [name for name in units_of(graph) if name not in float_units])
    _replace(made, calibrated.rounded)
    made = accept_uint8(made, preprocessing)
    return store_half(store_bytes(store_tables(made))).SerializeToString(deterministic=True)


def _correct(graph: onnx.ModelProto, shifts: dict[str, np.ndarray]) -> None:
    """Add the shifts of the means caused by rounding to the biases, in place."""
    places = {tensor.name: place for place, tensor in enumerate(graph.graph.initializer)}
    for node in graph.graph.node:
        shift = shifts.get(node.name)
        if shift is None:
            continue
        bias = 0.0 if len(node.input) < 3 else numpy_helper.to_array(graph.graph.initializer[places[node.input[2]]])
        name = f"{node.name}.bias"  # a new tensor, since other nodes may share the old bias
        graph.graph.initializer.append(numpy_helper.from_array((bias + shift).astype(np.float32), name))
        del node.input[2:]
        node.input.append(name)


def _static(graph: onnx.ModelProto, ranges: TensorsData, units: Collection[str]) -> onnx.ModelProto:
    copy = _copy(graph)
    if not units:
        return copy
    convolutions = [node.name for node in graph.graph.node if node.op_type == "Conv" and node.name in units]
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[*units, *_following(graph, convolutions)],
        nodes_to_exclude=[],
        op_types_to_quantize=_STATIC,
        extra_options={"WeightSymmetric": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return _without_zeros(quantizer.model.model)


def _without_zeros(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the zero points of weights and biases: they are all zero, which is the default."""
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


def _following(graph: onnx.ModelProto, units: Collection[str]) -> Iterator[str]:
    """Yield the nodes to quantize along with convolutions: their activations, and sums of two quantized tensors.

    The activation is fused into the convolution, for which only the range after the activation then matters.
    """
    made = {output: node for node in graph.graph.node for output in node.output}
    inside = set(units)
    for node in graph.graph.node:
        makers = [made[name].name for name in node.input if name in made]
        follows = node.op_type in ("Relu", "Clip") and makers and makers[0] in units
        if follows or (node.op_type == "Add" and len(makers) == 2 and inside.issuperset(makers)):
            inside.add(node.name)
            yield node.name
