"""Export the two ONNX graphs of a model folder with torch's exporter.

encoder.onnx: images [B,3,H,W] -> the decoder's initial state ("memory.*", "state.*").
decoder.onnx: tokens, parents [B,K], top_k [1], the state -> log_probs, ids [B,K,T], attention [B,K,G], next "state.*".
A model without an attention map (G = 0) has no such output.
"""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.export import Dim

from captionkit.inference.onnx_runtime import IMAGES
from captionkit.models.torch_stepper import StepwiseModel

_OPSET = 18


class _Begin(nn.Module):
    def __init__(self, model: StepwiseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.begin(self.model.encode(images)).values())


class _Step(nn.Module):
    def __init__(self, model: StepwiseModel, names: list[str], *, maps: bool) -> None:
        super().__init__()
        self.model, self.names, self.maps = model, names, maps

    def forward(self, tokens: Tensor, parents: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        logits, attention, changed = self.model.step(tokens, parents, dict(zip(self.names, state, strict=True)))
        return logits.log_softmax(-1), *([attention] if self.maps else []), *changed.values()  # [B,K,V], [B,K,G]


def encoder_graph(model: StepwiseModel, height: int, width: int) -> onnx.ModelProto:
    """Export the graph of encoder and `begin`, for a dynamic batch of images of `height` x `width` pixels."""
    device = next(model.parameters()).device
    images = torch.zeros(2, 3, height, width, device=device)
    names = list(_state(model, images))
    return _export(_Begin(model), (images,), [IMAGES], names, {IMAGES: {0: Dim("batch")}})


def decoder_graph(model: StepwiseModel, height: int, width: int) -> onnx.ModelProto:
    """Export the graph of `step`, for any number of images and hypotheses; it selects the `top_k` tokens itself."""
    device = next(model.parameters()).device
    state, growing, maps = _example(model, torch.zeros(2, 3, height, width, device=device))
    tokens = torch.full((2, 5), 4, device=device)
    parents = torch.tensor([[0, 1, 2, 0, 1]] * 2, device=device)
    batch, beams, before, words = (Dim(name) for name in ("batch", "beams", "beams_before", "words"))
    shapes = {
        "tokens": {0: batch, 1: beams},
        "parents": {0: batch, 1: beams},
        "state": tuple(
            {0: batch} if name not in growing else {0: batch, 1: before, **dict.fromkeys(growing[name], words)}
            for name in state
        ),
    }
    inputs = ["tokens", "parents", *state]
    following = [name + ".next" for name in state if name.startswith("state.")]
    outputs = ["all_log_probs", *(["attention"] if maps else []), *following]
    step = _Step(model, list(state), maps=maps)
    graph = _export(step, (tokens, parents, tuple(state.values())), inputs, outputs, shapes)
    return _rank(graph)


@torch.inference_mode()
def _state(model: StepwiseModel, images: Tensor) -> dict[str, Tensor]:
    return model.begin(model.encode(images))


@torch.inference_mode()
def _example(model: StepwiseModel, images: Tensor) -> tuple[dict[str, Tensor], dict[str, list[int]], bool]:
    """Return the state of three hypotheses after four words, the axes along which each "state.*" grows per word, and
    whether there is an attention map.

    All sizes differ from one another and from 1, so that the exporter does not specialize any of them to a constant.
    """
    state, sizes = _state(model, images), []
    tokens = torch.full((len(images), 3), 4, device=images.device)
    for _ in range(4):
        _, attention, changed = model.step(tokens, torch.zeros_like(tokens), state)
        state = {**state, **changed}
        sizes.append({name: value.shape for name, value in changed.items()})
    pairs = {name: zip(sizes[-2][name], sizes[-1][name], strict=True) for name in sizes[-1]}
    growing = {name: [axis for axis, (old, new) in enumerate(pair) if old != new] for name, pair in pairs.items()}
    return state, growing, attention.shape[-1] > 0


def _export(
    module: nn.Module, arguments: tuple[Any, ...], inputs: list[str], outputs: list[str], shapes: dict[str, Any]
) -> onnx.ModelProto:
    buffer = io.BytesIO()
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            program: Any = torch.onnx.export(
                module.eval(),
                arguments,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=_OPSET,
                verbose=False,
            )
            program.save(buffer)
    finally:
        quiet.setLevel(level)
    graph = onnx.load_from_string(buffer.getvalue())
    for node in graph.graph.node:
        del node.metadata_props[:]  # the exporter's stack traces: larger than the graph and full of local paths
        node.doc_string = ""
    del graph.graph.metadata_props[:]
    return graph


def _rank(model: onnx.ModelProto) -> onnx.ModelProto:
    """Append TopK to `all_log_probs`, with k as a graph input, so that only the likeliest tokens leave the graph.

    The exporter would make k a constant; ONNX's TopK accepts it as a tensor.
    """
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info("top_k", TensorProto.INT64, [1]))
    vocabulary = next(o for o in graph.output if o.name == "all_log_probs").type.tensor_type.shape.dim[-1].dim_value
    size = numpy_helper.from_array(np.array([vocabulary], np.int64), "vocabulary_size")
    graph.initializer.append(size)
    graph.node.append(helper.make_node("Min", ["top_k", "vocabulary_size"], ["ranked"]))
    graph.node.append(helper.make_node("TopK", ["all_log_probs", "ranked"], ["log_probs", "ids"], axis=-1, sorted=1))
    kept = [output for output in graph.output if output.name != "all_log_probs"]
    shape = ["batch", "beams", "ranked"]
    ranked = [
        helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("ids", TensorProto.INT64, shape),
    ]
    del graph.output[:]
    graph.output.extend([*ranked, *kept])
    onnx.checker.check_model(model)
    return model
