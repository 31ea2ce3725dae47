"""Graph passes that keep a decoder's outputs but use fewer operators and read fewer weights per word."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper
from onnxscript.optimizer import remove_unused_nodes

#: largest number of elements of a table that may be added to a graph
_LARGEST = 8_000_000
_ROWS = "parent_rows"


def optimize_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Optimize `model`, a plain graph, in place: one operator selects parents, and tables replace word projections."""
    graph = model.graph
    _pick_parents(graph)
    _look_up_words(graph)
    remove_unused_nodes(model)
    onnx.checker.check_model(model)
    return model


def _users(graph: onnx.GraphProto) -> dict[str, list[NodeProto]]:
    users: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    return users


def _pick_parents(graph: onnx.GraphProto) -> None:
    """Select each hypothesis' parent state with one GatherND.

    The exported graph computes flat indices of all hypotheses of all images, in a dozen operators per step.
    """
    users, found = _users(graph), False
    for state in (value.name for value in graph.input if value.name.startswith("state.")):
        for first in [node for node in users[state] if node.op_type == "Reshape"]:
            chain = _chain(users, first, "Gather", "Reshape")
            if chain:
                picked = chain[-1].output[0]
                chain[-1].CopyFrom(helper.make_node("GatherND", [state, _ROWS], [picked], picked, batch_dims=1))
                found = True
    if found:
        graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), f"{_ROWS}.axes"))
        graph.node.insert(0, helper.make_node("Unsqueeze", ["parents", f"{_ROWS}.axes"], [_ROWS], _ROWS))


def _chain(users: dict[str, list[NodeProto]], first: NodeProto, *kinds: str) -> list[NodeProto] | None:
    """Return `first` and the nodes of these kinds that follow it in sequence; None if an output has other users."""
    chain = [first]
    for kind in kinds:
        name = chain[-1].output[0]
        following = users[name]
        if [(node.op_type, node.input[0]) for node in following] != [(kind, name)]:
            return None
        chain.append(following[0])
    return chain


def _look_up_words(graph: onnx.GraphProto) -> None:
    """Replace products of word embeddings with weights by a lookup in a precomputed table, bias included."""
    users = _users(graph)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for gather in [node for node in graph.node if node.op_type == "Gather" and node.input[0] in stored]:
        table = stored[gather.input[0]]
        axis = next((attribute.i for attribute in gather.attribute), 0)
        products = [node for node in users[gather.output[0]] if node.op_type == "MatMul" and node.input[1] in stored]
        for product in products if table.ndim == 2 and axis == 0 else []:
            weight = stored[product.input[1]]
            if weight.ndim != 2 or len(table) * weight.shape[1] > _LARGEST:
                continue
            found, last = table @ weight, product  # [V,E] x [E,N] -> [V,N]
            biases = _chain(users, product, "Add")
            bias = stored.get(biases[1].input[1]) if biases else None
            if biases and bias is not None and bias.ndim == 1:
                found, last = found + bias, biases[1]
            name = f"{last.output[0]}.table"
            graph.initializer.append(numpy_helper.from_array(found, name))
            last.CopyFrom(helper.make_node("Gather", [name, gather.input[1]], list(last.output), last.name))
