"""Round weights with GPTQ, so that rounding errors compensate for each other.

The goal is a small error of the outputs, not of each weight. Inputs are correlated, so after one weight has been
rounded, the weights not rounded yet can be adjusted to cancel most of its effect on the outputs for calibration inputs
(Frantar et al. 2022, GPTQ, arXiv 2210.17323, sections 3.2 and 3.3).
"""

from __future__ import annotations

import numpy as np
import onnx

#: units with more inputs per output are rounded to nearest instead: their second-moment matrices would take gigabytes
#: for a large encoder
LARGEST = 2048
#: damping added to the diagonal of the second-moment matrix, as a share of its mean, as it is estimated from a sample
_DAMPING = 0.1
#: positions sampled from each calibration input of a convolution
_PLACES = 128


def inputs_of(node: onnx.NodeProto, weight: np.ndarray) -> int:
    """Return the number of inputs that each output of a convolution or matrix product sums."""
    return weight[0].size if node.op_type == "Conv" else len(weight)


class Inputs:
    """Accumulates means and second moments of the inputs of a convolution or a product with a weight matrix."""

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
        """Add a calibration input: [B,C,H,W] for a convolution, [...,K] for a matrix product."""
        rows = self._patches(value) if self._convolves else value.reshape(1, -1, value.shape[-1])  # [g,N,K]
        self._count += rows.shape[1]
        self._sums += rows.sum(1)  # [g,N,K] -> [g,K]
        self._products += rows.transpose(0, 2, 1) @ rows  # [g,K,N] x [g,N,K] -> [g,K,K]

    def round(self, scales: np.ndarray, limit: int) -> np.ndarray:
        """Round the weights to multiples, up to `limit`, of the output channels' `scales` [O]: int8, in their shape."""
        if self._convolves:
            rows = self._weight.reshape(self._groups, -1, self._sums.shape[1])  # [O,C/g,h,w] -> [g,O/g,K]
            # The bias corrects the effect of rounding on the mean, so only the covariance matters here.
            mean = self._sums / self._count
            together = self._products / self._count - mean[:, :, None] * mean[:, None, :]
            return gptq_round(rows, scales.reshape(*rows.shape[:2], 1), limit, together).reshape(self._weight.shape)
        rows = self._weight.T[None]  # [K,O] -> [1,O,K]
        return gptq_round(rows, scales.reshape(1, -1, 1), limit, self._products / self._count)[0].T

    def _patches(self, value: np.ndarray) -> np.ndarray:
        """Return the input patches under the kernel at random positions, [g,N,C/g*h*w]."""
        top, left, bottom, right = self._pads
        padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right)))
        spans = [(size - 1) * step + 1 for size, step in zip(self._weight.shape[2:], self._dilations, strict=True)]
        seen = np.lib.stride_tricks.sliding_window_view(padded, spans, (2, 3))  # [B,C,H',W',spans]
        seen = seen[:, :, :: self._strides[0], :: self._strides[1], :: self._dilations[0], :: self._dilations[1]]
        places = (self._generator.integers(seen.shape[axis], size=_PLACES) for axis in (0, 2, 3))
        image, row, column = places
        found = seen[image, :, row, column]  # -> [N,C,h,w]
        return found.reshape(_PLACES, self._groups, -1).transpose(1, 0, 2)  # -> [g,N,K]


def gptq_round(weights: np.ndarray, scales: np.ndarray, limit: int, together: np.ndarray) -> np.ndarray:
    """Round `weights` [g,O,K] to multiples, up to `limit`, of `scales` [g,O,1], with error compensation.

    `together` [g,K,K] is the second-moment or covariance matrix of the inputs.
    """
    variances = np.einsum("gkk->gk", together)
    # Inputs with the highest variance come first, while many other weights can still compensate.
    order = np.argsort(-variances.mean(0), kind="stable")
    damping = np.maximum(_DAMPING * variances.mean(1), np.finfo(np.float32).tiny)  # [g]
    damped = together[:, order][:, :, order] + damping[:, None, None] * np.eye(len(order))
    # Row k relates input k to the later ones, given the earlier inputs, whose weights have been rounded already.
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)  # [g,K,K]
    left, found = weights[:, :, order].astype(np.float64), np.empty(weights.shape, np.int8)
    for k, place in enumerate(order):
        whole = np.rint(left[:, :, k, None] / scales).clip(-limit, limit)  # [g,O,1]
        found[:, :, place] = whole[:, :, 0]
        error = (left[:, :, k, None] - whole * scales) / upper[:, k, k, None, None]  # [g,O,1]
        left[:, :, k + 1 :] -= error * upper[:, None, k, k + 1 :]  # [g,O,1] * [g,1,K-k-1]
    return found
