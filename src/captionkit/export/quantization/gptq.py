"""Rounding weights so that one weight's error makes up for another's.

What matters is not how far each weight is off but how far the outputs are. Inputs go together: after a weight has been
rounded, those that are still to be rounded can take back most of what its error does to the outputs on real inputs
(Frantar et al. 2022, GPTQ, arXiv 2210.17323, sections 3.2 and 3.3).
"""

from __future__ import annotations

import numpy as np
import onnx

#: inputs of one output, above which a unit's weights are better rounded each to the nearest: how so many go together
#: would take gigabytes for a large encoder
LARGEST = 2048
#: share of their mean that is added to the variances of inputs, of which only some have been seen
_DAMPING = 0.1
#: places of an image that the inputs of a convolution are taken from
_PLACES = 128


def inputs_of(node: onnx.NodeProto, weight: np.ndarray) -> int:
    """How many inputs each output of a convolution or matrix product sums."""
    return weight[0].size if node.op_type == "Conv" else len(weight)


class Inputs:
    """How the inputs of a convolution, or of a product with a matrix of weights, go together."""

    def __init__(self, node: onnx.NodeProto, weight: np.ndarray) -> None:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        self._convolves, self._weight = node.op_type == "Conv", weight
        self._groups = attributes["group"].i if "group" in attributes else 1
        self._strides = list(attributes["strides"].ints) if "strides" in attributes else [1, 1]
        self._dilations = list(attributes["dilations"].ints) if "dilations" in attributes else [1, 1]
        self._pads = list(attributes["pads"].ints) if "pads" in attributes else [0, 0, 0, 0]
        self._generator, self._count = np.random.default_rng(0), 0
        size = inputs_of(node, weight)
        self._sums, self._products = np.zeros((self._groups, size)), np.zeros((self._groups, size, size))

    def add(self, value: np.ndarray) -> None:
        """What goes in for an image: [B,C,H,W] of a convolution, [...,K] of a matrix product."""
        rows = self._patches(value) if self._convolves else value.reshape(1, -1, value.shape[-1])  # [g,N,K]
        self._count += rows.shape[1]
        self._sums += rows.sum(1)  # [g,N,K] -> [g,K]
        self._products += rows.transpose(0, 2, 1) @ rows  # [g,K,N] x [g,N,K] -> [g,K,K]

    def round(self, scales: np.ndarray, limit: int) -> np.ndarray:
        """The weights in whole multiples, up to `limit`, of the outputs' `scales` [O]: int8, of the weights' shape."""
        if self._convolves:
            rows = self._weight.reshape(self._groups, -1, self._sums.shape[1])  # [O,C/g,h,w] -> [g,O/g,K]
            # Its bias takes what rounding does to the mean; what differs from that is left.
            mean = self._sums / self._count
            together = self._products / self._count - mean[:, :, None] * mean[:, None, :]
            return compensated(rows, scales.reshape(*rows.shape[:2], 1), limit, together).reshape(self._weight.shape)
        rows = self._weight.T[None]  # [K,O] -> [1,O,K]
        return compensated(rows, scales.reshape(1, -1, 1), limit, self._products / self._count)[0].T

    def _patches(self, value: np.ndarray) -> np.ndarray:
        """What the kernel covers at some places, [g,N,C/g*h*w]."""
        top, left, bottom, right = self._pads
        padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right)))
        spans = [(size - 1) * step + 1 for size, step in zip(self._weight.shape[2:], self._dilations, strict=True)]
        seen = np.lib.stride_tricks.sliding_window_view(padded, spans, (2, 3))  # [B,C,H',W',spans]
        seen = seen[:, :, :: self._strides[0], :: self._strides[1], :: self._dilations[0], :: self._dilations[1]]
        places = (self._generator.integers(seen.shape[axis], size=_PLACES) for axis in (0, 2, 3))
        picture, row, column = places
        found = seen[picture, :, row, column]  # -> [N,C,h,w]
        return found.reshape(_PLACES, self._groups, -1).transpose(1, 0, 2)  # -> [g,N,K]


def compensated(weights: np.ndarray, scales: np.ndarray, limit: int, together: np.ndarray) -> np.ndarray:
    """`weights` [g,O,K] in whole multiples, up to `limit`, of `scales` [g,O,1], for inputs whose mean products are
    `together` [g,K,K].
    """
    variances = np.einsum("gkk->gk", together)
    # What varies most comes first, while many others can still make up for it.
    order = np.argsort(-variances.mean(0), kind="stable")
    damping = np.maximum(_DAMPING * variances.mean(1), np.finfo(np.float32).tiny)  # [g]
    damped = together[:, order][:, :, order] + damping[:, None, None] * np.eye(len(order))
    # Row k tells how the inputs from k on go together, given those before, whose weights have been rounded already.
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)  # [g,K,K]
    left, found = weights[:, :, order].astype(np.float64), np.empty(weights.shape, np.int8)
    for k, place in enumerate(order):
        whole = np.rint(left[:, :, k, None] / scales).clip(-limit, limit)  # [g,O,1]
        found[:, :, place] = whole[:, :, 0]
        error = (left[:, :, k, None] - whole * scales) / upper[:, k, k, None, None]  # [g,O,1]
        left[:, :, k + 1 :] -= error * upper[:, None, k, k + 1 :]  # [g,O,1] * [g,1,K-k-1]
    return found
