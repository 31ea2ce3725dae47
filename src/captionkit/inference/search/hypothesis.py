"""Hypotheses: traced back from the record of each step to whole captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype([("log_prob", "f8"), ("score", "f8"), ("length", "i8"), ("beam", "i8"), ("finished", "?")])
#: placeholder for a hypothesis that does not exist
NONE = np.array((-np.inf, -np.inf, 0, 0, False), RECORD)


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One caption of an image, as token ids."""

    tokens: NDArray[np.int64]  # [L], without begin and end token
    log_prob: float  # of the whole sequence by the unmodified model: with its prefix and, if it ended, its end token
    score: float  # log_prob / length**length_penalty, the ranking score
    token_log_probs: NDArray[np.float32]  # [L]
    attention: NDArray[np.float32]  # [L,G]; row t is the attention of this caption's own ancestors for tokens[t]
    finished: bool  # False: cut at max_length


class Step(NamedTuple):
    """The record of one step for tracing: the newest tokens of the live hypotheses and their parents."""

    images: NDArray[np.int64]  # [B], in rising order: the images still being decoded
    tokens: NDArray[np.int64]  # [B,K]
    parents: NDArray[np.int64]  # [B,K], indices into the previous step's hypotheses
    log_probs: NDArray[np.float32]  # [B,K]
    attention: NDArray[np.float32]  # [B,K of the step before,G]


def records(
    log_probs: NDArray[np.float64], length: int, beams: NDArray[np.int64], divisor: float, *, finished: bool
) -> NDArray[np.void]:
    """Return records [B,K] of hypotheses of `length` words, with the beams of their last words."""
    made = np.empty(log_probs.shape, RECORD)
    made["score"] = log_probs / divisor
    made["log_prob"] = log_probs
    made["length"] = length
    made["beam"] = beams
    made["finished"] = finished
    return made


def descending(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return indices that sort each row, largest first; ties keep their order, NaN comes last."""
    return np.argsort(-values, axis=1, kind="stable")


def pick(values: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
    """Return `values` [B,M] at the indices `places` [B,N] of each row. Faster than indexing both axes."""
    if len(values) == 1:
        return values[0].take(places)
    return values.take(places + np.arange(0, values.size, values.shape[1])[:, None])


def finished_first(found: NDArray[np.void]) -> NDArray[np.void]:
    """Sort records [B,N] by score, with those that were cut or do not exist after all others."""
    found = pick(found, descending(found["score"]))
    done = found["finished"] & (found["score"] > -np.inf)
    return pick(found, np.argsort(~done, axis=1, kind="stable"))


def trace(winners: NDArray[np.void], steps: list[Step]) -> list[list[Hypothesis]]:
    """Follow the parents of `winners` [B,N] back to the first step, for all at once."""
    beams, lengths = winners["beam"], winners["length"]
    longest = int(lengths.max(initial=0))
    everyone = np.arange(len(winners))[:, None]
    tokens = np.empty((*winners.shape, longest), np.int64)  # [B,N,L]
    log_probs = np.empty(tokens.shape, np.float32)  # [B,N,L]
    attention = np.empty((*tokens.shape, steps[0].attention.shape[2]), np.float32)  # [B,N,L,G]
    for t in reversed(range(longest)):
        step, rows = steps[t], everyone
        # An image that had left the batch has no row; the row used instead is beyond the length of its winners.
        if len(step.images) < len(winners):
            rows = np.searchsorted(step.images, everyone).clip(max=len(step.images) - 1)
        # A shorter winner stays at its last beam until its own last step is reached.
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
