"""Hypotheses, from what each step leaves behind to whole captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype([("log_prob", "f8"), ("score", "f8"), ("length", "i8"), ("beam", "i8"), ("finished", "?")])
#: in place of a hypothesis that does not exist
NONE = np.array((-np.inf, -np.inf, 0, 0, False), RECORD)


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One caption of an image, as token ids."""

    tokens: NDArray[np.int64]  # [L], without begin and end token
    log_prob: float  # of the whole sequence by the model alone: its prefix included, its end token if it has one
    score: float  # log_prob / length**length_penalty: what captions are ranked by
    token_log_probs: NDArray[np.float32]  # [L]
    attention: NDArray[np.float32]  # [L,G]; row t is what this caption's own ancestors attended to for tokens[t]
    finished: bool  # False: cut at max_length


class Step(NamedTuple):
    """What one step leaves for tracing: the live hypotheses' newest tokens and whence they came."""

    images: NDArray[np.int64]  # [B], in rising order: the images that were still decoded
    tokens: NDArray[np.int64]  # [B,K]
    parents: NDArray[np.int64]  # [B,K], into the hypotheses of the step before
    log_probs: NDArray[np.float32]  # [B,K]
    attention: NDArray[np.float32]  # [B,K of the step before,G]


def records(
    log_probs: NDArray[np.float64], length: int, beams: NDArray[np.int64], divisor: float, *, finished: bool
) -> NDArray[np.void]:
    """Hypotheses [B,K] of `length` words, with the beams where their last words are."""
    made = np.empty(log_probs.shape, RECORD)
    made["score"] = log_probs / divisor
    made["log_prob"] = log_probs
    made["length"] = length
    made["beam"] = beams
    made["finished"] = finished
    return made


def descending(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices that rank each row, best first; ties keep their order, NaN comes last."""
    return np.argsort(-values, axis=1, kind="stable")


def pick(values: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
    """`values` [B,M] at `places` [B,N] of their rows. Quicker than an index for each axis."""
    if len(values) == 1:
        return values[0].take(places)
    return values.take(places + np.arange(0, values.size, values.shape[1])[:, None])


def finished_first(found: NDArray[np.void]) -> NDArray[np.void]:
    """Records [B,N] by score, those of captions that were cut, or do not exist, behind all others."""
    found = pick(found, descending(found["score"]))
    done = found["finished"] & (found["score"] > -np.inf)
    return pick(found, np.argsort(~done, axis=1, kind="stable"))


def trace(winners: NDArray[np.void], steps: list[Step]) -> list[list[Hypothesis]]:
    """Follow the parents of winners [B,N] back to the first step, all at once."""
    beams, lengths = winners["beam"], winners["length"]
    longest = int(lengths.max(initial=0))
    everyone = np.arange(len(winners))[:, None]
    tokens = np.empty((*winners.shape, longest), np.int64)  # [B,N,L]
    log_probs = np.empty(tokens.shape, np.float32)  # [B,N,L]
    attention = np.empty((*tokens.shape, steps[0].attention.shape[2]), np.float32)  # [B,N,L,G]
    for t in reversed(range(longest)):
        step, rows = steps[t], everyone
        # An image that had left the batch has no row; what stands there instead is beyond the length of its winners.
        if len(step.images) < len(winners):
            rows = np.searchsorted(step.images, everyone).clip(max=len(step.images) - 1)
        # A shorter winner waits at its last beam until its own last step is reached.
        reached = t < lengths
        at = np.where(reached, beams, 0)
        parents = step.parents[rows, at]
        tokens[:, :, t], log_probs[:, :, t] = step.tokens[rows, at], step.log_probs[rows, at]
        attention[:, :, t] = step.attention[rows, parents]
        beams = np.where(reached, parents, beams)
    captions: list[list[Hypothesis]] = [[] for _ in winners]
    for b, n in zip(*np.nonzero(winners["score"] > -np.inf), strict=True):
        log_prob, score, length, _, finished = winners[b, n].item()
        # Copies, so that keeping one caption does not keep the whole batch in memory.
        words, word_log_probs, maps = (part[b, n, :length].copy() for part in (tokens, log_probs, attention))
        captions[b].append(Hypothesis(words, log_prob, score, word_log_probs, maps, finished))
    return captions
