"""Captions sampled from the model's distribution."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from captionkit.inference.search.constraints import NgramBlocker, exclusion
from captionkit.inference.search.generation_config import Decoding
from captionkit.inference.search.hypothesis import NONE, Hypothesis, finished_first, records, trace
from captionkit.inference.search.stepper import WHOLE, BeamState, SearchRequest


def sample(asked: SearchRequest) -> list[list[Hypothesis]]:
    """Draw `num_captions` independent samples per image, which may be equal; return them by falling score.

    At each step the log-probabilities of the allowed tokens are divided by `temperature`; the `top_k` likeliest tokens
    are kept, then of these the nucleus (Holtzman et al. 2020, arXiv 1904.09751), the fewest whose share of the
    probability reaches `top_p`; one of the rest is drawn. The reported log-probability is that of the unmodified model.
    A sample of `max_length` words that does not end is cut and ranks after the others. A sample with no token left to
    draw, as all are banned, is dropped.

    The random numbers depend on the seed, the image (its values as the encoder receives them), the index of the sample
    and the step. So an image's captions depend neither on its place in a batch nor on the other images, and the first
    samples are the same however many are drawn.
    """
    stepper, begun, decoding, constraints, (start_ids, eos_id, banned, *_) = asked
    banned = banned | constraints.banned_tokens
    excluded, phrases = banned | {eos_id}, constraints.banned_phrases
    mask = exclusion(excluded)
    start, stop, samples = len(constraints.prefix), decoding.max_length, decoding.num_captions
    remember = bool(decoding.no_repeat_ngram_size or phrases)
    live = BeamState(stepper, begun, start_ids, constraints.prefix, banned, remember=remember)
    random = np.stack([_uniform(image, decoding.seed, samples, stop + 1) for image in begun.images])  # [B,N,L]
    found = np.full((len(begun.images), samples), NONE)
    columns = np.broadcast_to(np.arange(samples), found.shape)  # the sample index of each hypothesis, [B,K]
    origin = np.zeros(found.shape, np.int64)  # the hypothesis that each continues; at first all share one

    for length in range(start, stop + 1):  # words in each hypothesis
        if length >= decoding.min_length and eos_id not in banned:
            mask[eos_id] = 0
        forbidden = NgramBlocker(live.said, decoding.no_repeat_ngram_size, phrases)
        ranks = decoding.top_k + len(excluded) + forbidden.most if decoding.top_k else WHOLE
        log_probs, ids, attention = live.step(ranks)
        kept = _kept(forbidden.forbid(log_probs, ids) + mask.take(ids, mode="clip"), decoding)
        rows = np.arange(len(ids))[:, None]
        tokens, places = _draw(kept, ids, random[live.images[:, None], columns, length], origin)

        before = live.log_probs[rows, origin]
        possible = (kept.max(-1) > 0)[rows, origin] & (before > -np.inf)
        drawn = np.where(possible, log_probs[rows, origin, places], -np.inf)  # [B,K]
        ends = possible & (tokens == eos_id)
        over = ends if length < stop else possible  # at max_length, those that do not end are cut
        row, column = np.nonzero(over)
        made = _made(before, drawn, ends, length, origin, decoding.length_penalty)
        found[live.images[row], columns[row, column]] = made[row, column]
        if length == stop:
            break

        going = possible & ~ends
        order = np.argsort(~going, axis=1, kind="stable")[:, : max(1, going.sum(1).max())]  # drop those that ended
        totals = np.where(going, before + drawn, -np.inf)[rows, order]
        live.advance(tokens[rows, order], origin[rows, order], totals, drawn[rows, order], attention)
        columns, origin = columns[rows, order], np.broadcast_to(np.arange(order.shape[1]), order.shape)
        if live.over:
            break
        stay = live.drop_done()
        if stay is not None:
            columns, origin = columns[stay], origin[stay]
    return trace(finished_first(found), live.steps)


def _made(
    before: NDArray[np.float64],
    drawn: NDArray[np.float32],
    ends: NDArray[np.bool_],
    length: int,
    origin: NDArray[np.int64],
    penalty: float,
) -> NDArray[np.void]:
    """Return records [B,K] of samples of `length` words: ended with the token drawn, or cut before it."""
    ended = records(before + drawn, length, origin, (length + 1) ** penalty, finished=True)
    cut = records(before, length, origin, max(length, 1) ** penalty, finished=False)
    return np.where(ends, ended, cut)


def _kept(allowed: NDArray[np.float64], decoding: Decoding) -> NDArray[np.float64]:
    """Return sampling weights [B,K,T] from log-probabilities [B,K,T] in falling order; 0 excludes a token."""
    possible = allowed > -np.inf  # false for NaN
    if decoding.top_k:
        possible &= possible.cumsum(-1) <= decoding.top_k
    allowed = np.where(possible, allowed, -np.inf)
    peak = allowed.max(-1, keepdims=True)
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((allowed - np.where(peak > -np.inf, peak, 0)) / decoding.temperature)
    if decoding.top_p < 1:
        before = weights.cumsum(-1) - weights
        weights[before >= decoding.top_p * weights.sum(-1, keepdims=True)] = 0
    return weights


def _draw(
    weights: NDArray[np.float64], ids: NDArray[np.int64], random: NDArray[np.float64], origin: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw a token for each `random` number [B,N] from the weights [B,K,T] of the hypothesis `origin` [B,N].

    Returns the tokens and their indices in T. The cumulative distribution is built in the order of the ids: in order of
    rank, two tokens of almost equal probability that swap with the batch size would change the caption.
    """
    rows = np.arange(len(ids))[:, None]
    by_id = np.zeros((*ids.shape[:2], int(ids.max()) + 1))
    np.put_along_axis(by_id, ids, weights, axis=2)
    heights = by_id.cumsum(2)  # [B,K,V]
    tokens = (heights[rows, origin] > (random * heights[rows, origin, -1])[:, :, None]).argmax(2)  # [B,N]
    return tokens, (ids[rows, origin] == tokens[:, :, None]).argmax(2)


def _uniform(image: NDArray[np.float32], seed: int, samples: int, steps: int) -> NDArray[np.float64]:
    """Return random numbers in [0, 1) for each sample and step of an image, [samples,steps]."""
    content = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
    numbers = []
    for sample in range(samples):
        key = hashlib.blake2b(content + seed.to_bytes(8, "little") + sample.to_bytes(8, "little"), digest_size=16)
        # This generator's output depends on its key only, and its first numbers not on how many are drawn.
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key.digest(), "little")))
        numbers.append(generator.random(steps))
    return np.stack(numbers)
