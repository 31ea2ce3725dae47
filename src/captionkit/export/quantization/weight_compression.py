"""Storage of a graph's weights in its file: as plain constants, in 16 bits or in 8 bits."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

#: initializers with fewer elements than this are not compressed
SMALL = 1024
#: float weights with at least this many elements are stored in 8 bits by `store_bytes`
_BYTES_FROM = 16384
_INT8 = 127


def plain_graph(content: bytes) -> onnx.ModelProto:
    """Load a graph with constants folded: weights in 32 bits, batch norm folded into the convolutions.

    Every node gets a name, and every tensor whose shape can be inferred gets that shape.
    """
    options = ort.SessionOptions()
    # The basic optimizations keep standard ONNX operators; higher levels insert operators specific to one CPU type.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "plain.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        model = onnx.load(path)
    used = {node.domain for node in model.graph.node}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return onnx.shape_inference.infer_shapes(model)


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store large weights in 16 bits; the graph casts them back when it is loaded, and computes in 32 bits."""
    graph = model.graph
    for index, tensor in enumerate(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < SMALL:
            continue
        name = tensor.name
        graph.initializer[index].CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        graph.node.insert(0, helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    onnx.checker.check_model(model)
    return model


def store_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store large weights of float convolutions and matrix products in 8 bits, with one scale per output channel.

    As with `store_half`, the graph dequantizes them when it is loaded, and computes in 32 bits.
    """
    graph = model.graph
    places = {tensor.name: place for place, tensor in enumerate(graph.initializer)}
    outputs = {node.input[1]: _output_axis(node) for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")}
    for name, axis in outputs.items():
        values = numpy_helper.to_array(graph.initializer[places[name]]) if name in places else np.empty(0)
        if values.dtype != np.float32 or values.size < _BYTES_FROM:
            continue
        others = tuple(dimension for dimension in range(values.ndim) if dimension != axis)
        rounded, scales = _rounded(values, others)
        graph.initializer[places[name]].CopyFrom(numpy_helper.from_array(rounded, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scales"))
        graph.node.insert(0, helper.make_node("Mul", [f"{name}.cast", f"{name}.scales"], [name]))
        graph.node.insert(0, helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], to=TensorProto.FLOAT))
    onnx.checker.check_model(model)
    return model


def _output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a node's weights that its output channels lie along."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def _rounded(values: np.ndarray, axes: int | tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return `values` rounded to 8 bits, and the scales to dequantize them, shared along `axes`."""
    scales = np.maximum(np.abs(values).max(axes, keepdims=True) / _INT8, np.finfo(np.float32).tiny)
    return np.rint(values / scales).astype(np.int8), scales.astype(np.float32)


def store_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store tables that rows are gathered from, such as word embeddings, in 8 bits with one scale per column."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for node in [node for node in graph.node if node.op_type == "Gather" and node.input[0] in tensors]:
        table = numpy_helper.to_array(tensors[node.input[0]])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if table.ndim == 2 and table.size >= SMALL and axis == 0:
            _store_table(graph, node, table)
    wanted = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    return model


def _store_table(graph: onnx.GraphProto, node: onnx.NodeProto, table: np.ndarray) -> None:
    """Replace `node` by a Gather of 8-bit rows and a multiplication with the scales."""
    rounded, scales = _rounded(table, 0)  # [V,E], [1,E]
    name, found = node.input[0], node.output[0]
    if all(tensor.name != f"{name}.int8" for tensor in graph.initializer):  # otherwise another node shares the table
        stored = {f"{name}.int8": rounded, f"{name}.scales": scales[0]}
        graph.initializer.extend(numpy_helper.from_array(values, key) for key, values in stored.items())
    scaled = helper.make_node(
        "DequantizeLinear", [f"{found}.int8", f"{name}.scales"], [found], f"{node.name}.scaled", axis=-1
    )
    graph.node.insert(list(graph.node).index(node) + 1, scaled)
    node.input[0], node.output[0] = f"{name}.int8", f"{found}.int8"
