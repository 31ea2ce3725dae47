"""Captioners of transformers, exported to the layouts of the Hub's ONNX models.

The layouts are those of Hugging Face's exporters: names of files, inputs and outputs, and the merged decoder with its
switch for the cache. torch and transformers are needed to write them, not to run them.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, compose, helper
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, Florence2ForConditionalGeneration

from pretrained_captioners import SIDE, save

_OPSET = 17


class _Step(nn.Module):
    """A decoder's step with a flat cache: of each layer its own keys and values, then the encoder's, if `cross`."""

    def __init__(self, decoder: nn.Module, layers: int, *, embeds: bool, cross: bool, past: bool) -> None:
        super().__init__()
        self.decoder, self.layers, self.embeds, self.cross, self.past = decoder, layers, embeds, cross, past

    def forward(self, words: Tensor, hidden: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        own, crossed = DynamicCache(), DynamicCache()
        per = 4 if self.cross else 2
        for layer in range(self.layers if self.past else 0):
            own.update(caches[layer * per], caches[layer * per + 1], layer)
            if self.cross:
                crossed.update(caches[layer * per + 2], caches[layer * per + 3], layer)
        cache = EncoderDecoderCache(own, crossed)  # holds that what `crossed` has needs no update
        given = {"inputs_embeds" if self.embeds else "input_ids": words}
        logits = self.decoder(**given, encoder_hidden_states=hidden, cache=cache, use_cache=True).logits
        found = [logits]
        for layer in range(self.layers):
            parts = [cache.self_attention_cache.layers[layer]]
            if self.cross and not self.past:
                parts.append(cache.cross_attention_cache.layers[layer])
            found += [tensor for part in parts for tensor in (part.keys, part.values)]
        return tuple(found)


class _Florence(nn.Module):
    """Florence-2's decoder and head."""

    def __init__(self, network: Florence2ForConditionalGeneration) -> None:
        super().__init__()
        self.decoder, self.head = network.model.language_model.decoder, network.lm_head

    def forward(self, **given: Any) -> Any:
        found = self.decoder(**given)
        found.logits = self.head(found.last_hidden_state)
        return found


class _Call(nn.Module):
    """A module of one function."""

    def __init__(self, module: nn.Module, call: Any) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *given: Tensor) -> Tensor:
        return self.call(self.module, *given)


def publish(network: Any, path: Path, *, layout: str = "merged", suffix: str = "", **generation: Any) -> Path:
    """Write a VisionEncoderDecoder or a Florence-2 as it is published. `layout`: a "merged" decoder, or a "pair"."""
    network = network.float().eval()
    network.set_attn_implementation("eager")
    for name, value in generation.items():
        setattr(network.generation_config, name, value)
    save(network, path)
    (path / "model.safetensors").unlink()
    (path / "onnx").mkdir()
    florence = isinstance(network, Florence2ForConditionalGeneration)
    graphs = _florence2(network) if florence else _vision_encoder(network)
    decoder, layers, cross = _decoder_of(network)
    graphs |= _decoders(decoder, layers, embeds=florence, cross=cross, hidden=_hidden_size(network), layout=layout)
    for name, graph in graphs.items():
        onnx.save(graph, path / "onnx" / f"{name}{suffix}.onnx")
    return path


def _decoder_of(network: Any) -> tuple[nn.Module, int, bool]:
    """The decoder, how many layers it has, and whether its cache has the encoder's part."""
    if isinstance(network, Florence2ForConditionalGeneration):
        return _Florence(network), network.config.text_config.decoder_layers, True
    config = network.config.decoder
    if config.model_type == "gpt2":
        return network.decoder, config.n_layer, False
    return network.decoder, config.decoder_layers, True


def _hidden_size(network: Any) -> int:
    if isinstance(network, Florence2ForConditionalGeneration):
        return network.config.text_config.d_model
    return network.config.decoder.hidden_size


def _vision_encoder(network: Any) -> dict[str, Any]:
    def encode(network: Any, pixels: Tensor) -> Tensor:
        hidden = network.encoder(pixel_values=pixels).last_hidden_state
        return network.enc_to_dec_proj(hidden) if hasattr(network, "enc_to_dec_proj") else hidden

    call = _Call(network, encode)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    return {"encoder_model": export(call, (pixels,), ["pixel_values"], ["last_hidden_state"], {})}


def _florence2(network: Any) -> dict[str, Any]:
    pixels, tokens = torch.randn(2, 3, SIDE, SIDE), torch.tensor([[1, 4, 5]] * 2)
    vision = _Call(network, lambda network, pixels: network.get_image_features(pixels).pooler_output)
    embed = _Call(network, lambda network, tokens: network.get_input_embeddings()(tokens))
    encode = _Call(
        network,
        lambda network, embeds, mask: (
            network.model.language_model.encoder(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        ),
    )
    embeds = torch.randn(2, 7, network.config.text_config.d_model)
    length = {1: "length"}
    return {
        "vision_encoder": export(vision, (pixels,), ["pixel_values"], ["image_features"], {}),
        "embed_tokens": export(embed, (tokens,), ["input_ids"], ["inputs_embeds"], {"input_ids": length}),
        "encoder_model": export(
            encode,
            (embeds, torch.ones(2, 7, dtype=torch.long)),
            ["inputs_embeds", "attention_mask"],
            ["last_hidden_state"],
            {"inputs_embeds": length, "attention_mask": length, "last_hidden_state": length},
        ),
    }


def _decoders(
    decoder: nn.Module, layers: int, *, embeds: bool, cross: bool, hidden: int, layout: str
) -> dict[str, Any]:
    first, later = (
        _decoder_graph(decoder, layers, embeds=embeds, cross=cross, hidden=hidden, past=past) for past in (False, True)
    )
    if layout == "pair":
        return {"decoder_model": first, "decoder_with_past_model": later}
    return {"decoder_model_merged": _merged(first, later)}


def _decoder_graph(
    decoder: nn.Module, layers: int, *, embeds: bool, cross: bool, hidden: int, past: bool
) -> onnx.ModelProto:
    words = torch.randn(2, 1, hidden) if embeds else torch.tensor([[3], [4]])
    step = _Step(decoder, layers, embeds=embeds, cross=cross, past=False)
    memory = torch.randn(2, 6, hidden)
    with torch.no_grad():
        _, *caches = step(words, memory)
    every = _names(layers, cross, both=True, kind="past_key_values")
    step.past = past
    given = (words, memory, *(caches if past else ()))
    inputs = ["inputs_embeds" if embeds else "input_ids", "encoder_hidden_states", *(every if past else ())]
    outputs = ["logits", *_names(layers, cross, both=not past, kind="present")]
    dynamic = {"encoder_hidden_states": {1: "patches"}}
    for name in (*(every if past else ()), *outputs[1:]):
        dynamic[name] = {2: "patches" if ".encoder." in name else f"words of {name.split('_')[0]}"}
    return export(step, given, inputs, outputs, dynamic)


def _names(layers: int, cross: bool, *, both: bool, kind: str) -> list[str]:
    sides = [""] if not cross else ["decoder.", "encoder."] if both else ["decoder."]
    return [f"{kind}.{layer}.{side}{part}" for layer in range(layers) for side in sides for part in ("key", "value")]


def export(module: nn.Module, given: tuple[Any, ...], inputs: list[str], outputs: list[str], dynamic: Any) -> Any:
    axes = {name: {0: "batch", **dynamic.get(name, {})} for name in (*inputs, *outputs)}
    module.eval()  # the exporter puts back the mode that it finds
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            given,
            buffer,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def _merged(first: onnx.ModelProto, later: onnx.ModelProto) -> onnx.ModelProto:
    """One graph for all steps, which takes the branch that `use_cache_branch` asks for.

    The outputs that only the first step gives are empty in the other branch.
    """
    names = [output.name for output in first.graph.output]
    branches = {}
    for branch, model in (("else_branch", first), ("then_branch", later)):
        prefixed = compose.add_prefix_graph(model.graph, f"{branch}/")
        graph = onnx.GraphProto(name=branch)
        graph.node.extend(prefixed.node)
        graph.initializer.extend(prefixed.initializer)
        # The branches see the inputs of the outer graph by their own names.
        renamed = {f"{branch}/{entry.name}": entry.name for entry in model.graph.input}
        for node in graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
        given = {output.name for output in model.graph.output}
        for name in names:
            output = f"{branch}/{name}"
            if name not in given:
                shape = helper.make_tensor(f"{output}/shape", TensorProto.INT64, [4], [0, 1, 0, 1])
                graph.node.append(helper.make_node("Constant", [], [shape.name], value=shape))
                graph.node.append(helper.make_node("ConstantOfShape", [shape.name], [output]))
            kind = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
            graph.output.append(kind)
        branches[branch] = graph
    switch = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    condition = helper.make_node("If", ["use_cache_branch"], names, **branches)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    inputs = {entry.name: entry for entry in (*later.graph.input, *first.graph.input)}
    graph = helper.make_graph([condition], "merged", [*inputs.values(), switch], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)


def change_json(path: Path, **values: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    found = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}), encoding="utf-8")
