"""Make an encoder graph take decoded images directly: uint8, channels last.

Normalisation is folded into the first convolution, so that no conversion to float is needed. Four channels are used
because CPUs read four bytes per pixel faster than three.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from captionkit.data.images import Preprocessing
from captionkit.inference.onnx_runtime import IMAGES, PIXELS


class _Entry(NamedTuple):
    """The nodes through which images enter a quantized graph."""

    quantize: NodeProto
    dequantize: NodeProto
    convolve: NodeProto
    weight: NodeProto
    bias: NodeProto


def accept_uint8(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Replace the input "images" float [B,3,height,width] by "pixels" uint8 [B,height,width,4] (RGB and any fourth).

    The graph is returned unchanged if that is not possible: if images do not enter through an 8-bit convolution, or if
    channels have different means or standard deviations, for which one scale is not enough.
    """
    entry = _entry(model.graph)
    if entry is None or len(set(preprocessing.mean)) > 1 or len(set(preprocessing.std)) > 1:
        return model
    _widen(model.graph, entry, preprocessing)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    shape: list[str | int | None] = [batch, preprocessing.height, preprocessing.width, 4]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape))
    onnx.checker.check_model(model)
    return model


def _entry(graph: onnx.GraphProto) -> _Entry | None:
    makers = {output: node for node in graph.node for output in node.output}
    path, name = [], IMAGES
    for kind in ("QuantizeLinear", "DequantizeLinear", "Conv"):
        users = [node for node in graph.node if name in node.input]
        if [user.op_type for user in users] != [kind]:
            return None
        path.append(users[0])
        name = users[0].output[0]
    stored = [makers.get(given) for given in path[-1].input[1:]]
    if len(stored) != 2 or any(node is None or node.op_type != "DequantizeLinear" for node in stored):
        return None
    entry = _Entry(*path, *stored)
    weight = next(tensor for tensor in graph.initializer if tensor.name == entry.weight.input[0])
    return entry if weight.dims[1] == 3 else None


def _widen(graph: onnx.GraphProto, entry: _Entry, preprocessing: Preprocessing) -> None:
    """Replace the quantized images by the transposed bytes, as 8-bit values with a different scale."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    weight, weight_scale = (values[name] for name in entry.weight.input[:2])  # [O,3,h,w], [O]
    bias = values[entry.bias.input[0]] * values[entry.bias.input[1]]  # [O]
    scale, zero = np.float32(1 / (255 * preprocessing.std[0])), np.uint8(preprocessing.mean_bytes[0])
    # The zero point is an integer, so that inputs are off by a constant, which all weights of an output multiply.
    off = scale * (zero - 255 * preprocessing.mean[0]) * weight.astype(np.int64).sum((1, 2, 3)) * weight_scale  # [O]
    bias_scale = (scale * weight_scale).astype(np.float32)
    wide = np.pad(weight, ((0, 0), (0, 1), (0, 0), (0, 0)))  # [O,3,h,w] -> [O,4,h,w]
    made = {
        entry.weight.input[0]: wide,
        entry.bias.input[0]: np.rint((bias + off) / bias_scale).astype(np.int32),
        entry.bias.input[1]: bias_scale,
        f"{PIXELS}_scale": scale,
        f"{PIXELS}_zero_point": zero,
    }
    unused = {*made, *entry.quantize.input[1:]}
    kept = [tensor for name, tensor in tensors.items() if name not in unused]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *(numpy_helper.from_array(value, name) for name, value in made.items())])
    planes = f"{PIXELS}_planes"
    entry.quantize.CopyFrom(helper.make_node("Transpose", [PIXELS], [planes], planes, perm=[0, 3, 1, 2]))
    entry.dequantize.input[:] = [planes, f"{PIXELS}_scale", f"{PIXELS}_zero_point"]
