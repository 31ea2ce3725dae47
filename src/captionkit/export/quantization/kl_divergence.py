"""Measure the KL divergence of quantized from float graphs, in nats per word, along the float model's captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from captionkit.data.tokenizer import Tokenizer
from captionkit.inference.onnx_runtime import OnnxStepper
from captionkit.inference.search import State, Stepper
from captionkit.inference.search.stepper import WHOLE

_LONGEST = 12  # maximum number of words compared per caption
_TOGETHER = 8  # batch size of the encoder


@dataclass(frozen=True)
class Trace:
    """A model's greedy captions of images, with the log-probabilities of every step.

    tokens [B,L] are the inputs, from the start tokens on; live [B,L] is false before the last start token and after a
    caption's end; log_probs [B,L,V].
    """

    images: np.ndarray
    state: State
    tokens: np.ndarray
    live: np.ndarray
    log_probs: np.ndarray

    def first(self, many: int) -> Trace:
        """Return the trace of the first `many` images only."""
        state = {name: value[:many] for name, value in self.state.items()}
        return Trace(self.images[:many], state, self.tokens[:many], self.live[:many], self.log_probs[:many])


def trace(stepper: Stepper, images: np.ndarray, tokenizer: Tokenizer) -> Trace:
    """Caption `images` [B,3,H,W] greedily and return the trace."""
    begun = state = encode(stepper, images)
    special, many = tokenizer.special, len(images)
    token = np.full((many, 1), special.start[0], np.int64)
    live = np.ones(many, bool)
    tokens: list[np.ndarray] = []
    lives: list[np.ndarray] = []
    found: list[np.ndarray] = []
    while live.any() and len(tokens) < _LONGEST:
        tokens.append(token)
        log_probs, state = _step(stepper, token, state)
        found.append(log_probs)
        if len(tokens) < len(special.start):  # what follows a token of the prompt is given
            lives.append(np.zeros(many, bool))
            token = np.full((many, 1), special.start[len(tokens)], np.int64)
            continue
        lives.append(live)
        token = log_probs.argmax(1)[:, None]  # [B,V] -> [B,1]
        live = live & (token[:, 0] != special.end)
    return Trace(images, begun, np.concatenate(tokens, 1), np.stack(lives, 1), np.stack(found, 1))


def encode(stepper: Stepper, images: np.ndarray) -> State:
    """Return the initial state of `images`, encoded in small batches."""
    parts = [stepper.begin(images[start : start + _TOGETHER]) for start in range(0, len(images), _TOGETHER)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def feeds(traced: Trace, stepper: OnnxStepper) -> Iterator[State]:
    """Yield the inputs of the decoder graph at each step of the trace."""
    state = traced.state
    for place in range(traced.tokens.shape[1]):
        token = traced.tokens[:, place : place + 1]  # [B,L] -> [B,1]
        yield stepper.inputs(token, np.zeros_like(token), state, WHOLE)
        _, state = _step(stepper, token, state)


def nats_per_word(traced: Trace, state: State, stepper: Stepper) -> float:
    """Return the mean KL divergence, in nats per word, of the quantized model's predictions from the float model's.

    Both are fed the float model's captions in `traced`. `state` is the initial state of the images from the encoder
    under test, and `stepper` decodes it.
    """
    total = 0.0
    for place in range(traced.tokens.shape[1]):
        log_probs, state = _step(stepper, traced.tokens[:, place : place + 1], state)
        wanted, live = traced.log_probs[:, place], traced.live[:, place]
        total += float((np.exp(wanted) * (wanted - log_probs)).sum(1)[live].sum())  # [B,V] -> [B] -> []
    return total / traced.live.sum()


def feature_error(traced: Trace, state: State) -> float:
    """Return the largest relative RMS error of any tensor of the initial state."""
    return max(
        float(np.sqrt(((state[name] - wanted) ** 2).mean() / max(wanted.var(), 1e-12)))
        for name, wanted in traced.state.items()
        if wanted.size
    )


def _step(stepper: Stepper, token: np.ndarray, state: State) -> tuple[np.ndarray, Any]:
    """Decode one word with one hypothesis per image -> log-probabilities [B,V] in vocabulary order, and the state."""
    log_probs, ids, _, state = stepper.step(token, np.zeros_like(token), state, WHOLE)
    ordered = np.empty_like(log_probs[:, 0])
    np.put_along_axis(ordered, ids[:, 0], log_probs[:, 0], 1)
    return ordered.astype(np.float64), state
