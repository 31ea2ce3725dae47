"""Beam search with the rules of transformers' `generate`, for models whose published captions were made with them.

It finds the same tokens. The rules differ from `beam_search` in three ways:

- when an image is done: `early_stopping` "true" once K hypotheses are finished; "false" when the worst of K finished
  hypotheses scores no lower than the best live one would if it ended now; "never" when it scores no lower than the best
  live one would at `max_length` with the log-probability that it has;
- hypotheses of `max_length` tokens compete with those that ended, by score;
- lengths count all generated tokens, the end token among them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from captionkit.inference.search.constraints import NgramBlocker, exclusion
from captionkit.inference.search.hypothesis import NONE, Hypothesis, descending, pick, records, trace
from captionkit.inference.search.stepper import BeamState, SearchRequest


def transformers_beam_search(asked: SearchRequest) -> list[list[Hypothesis]]:
    """Return the `num_captions` best of the K hypotheses that `generate(num_beams=K)` finishes, for each image."""
    return _Beams(asked).run()


class _Beams:
    """One search."""

    def __init__(self, asked: SearchRequest) -> None:
        stepper, begun, self.decoding, constraints, self.special = asked
        self.phrases = constraints.banned_phrases
        banned = self.special.banned | constraints.banned_tokens
        self.can_end = self.special.end not in banned
        excluded = banned | {self.special.end}
        self.width = self.decoding.num_beams
        self.ranks = 2 * self.width + len(excluded)
        self.mask = exclusion(excluded)
        remember = bool(self.decoding.no_repeat_ngram_size or self.phrases)
        self.live = BeamState(stepper, begun, self.special.start, constraints.prefix, banned, remember=remember)
        # Runs and phrases may begin in the start tokens.
        before = np.broadcast_to(
            np.array(self.special.start, np.int64), (len(begun.images), 1, len(self.special.start))
        )
        self.live.said = np.concatenate([before, self.live.said], axis=2)  # [B,1,S] + [B,1,L]
        self.best = np.full((len(begun.images), self.width), NONE)
        self.prefix = len(constraints.prefix)

    def run(self) -> list[list[Hypothesis]]:
        for length in self._lengths():
            if length == self._longest and self.special.forced_end:
                self._finish(self.live.log_probs, self._columns(self.live.log_probs), length, words=length - 1)
                break
            self._step(length)
            if self.live.over:
                break
        return trace(self.best[:, : self.decoding.num_captions], self.live.steps)

    @property
    def _longest(self) -> int:
        return max(self.decoding.max_length - self.special.counted, 1)

    def _lengths(self) -> Iterator[int]:
        """Yield the number of tokens, the end token among them, that the hypotheses have after each step."""
        return iter(range(self.prefix + 1, max(self._longest, self.prefix + 1) + 1))

    def _score_divisor(self, length: int) -> float:
        return self.decoding.divisor(length + self.special.counted)

    def _step(self, length: int) -> None:
        """Continue the live hypotheses, finish those that end, and close the images that are done."""
        if self.can_end and length + self.special.counted > self.decoding.min_length:
            self.mask[self.special.end] = 0
        forbidden = NgramBlocker(self.live.said, self.decoding.no_repeat_ngram_size, self.phrases, adjacent=False)
        log_probs, ids, attention = self.live.step(self.ranks + forbidden.most)
        log_probs = forbidden.forbid(log_probs, ids)
        batch, _, ranked = ids.shape
        allowed = log_probs + self.mask.take(ids, mode="clip")
        totals = (self.live.log_probs[:, :, None] + allowed).reshape(batch, -1)  # [B,K,T] -> [B,M]
        ids, log_probs = ids.reshape(batch, -1), log_probs.reshape(batch, -1)
        places = descending(totals)[:, : 2 * self.width]  # [B,2K]
        totals, tokens, log_probs = pick(totals, places), pick(ids, places), pick(log_probs, places)
        parents = places // ranked
        ends = (tokens == self.special.end) & (totals > -np.inf)
        top = np.arange(places.shape[1]) < self.width
        self._finish(np.where(ends & top, totals, -np.inf), parents, length, words=length - 1)
        has_ended = ends[:, 0]
        last = length == self._longest
        # At the last length the K best that do not end are cut; before it, the K best that do not end stay live.
        going = np.where(ends | (~top & last), -np.inf, totals)
        order = descending(going)[:, : self.width]
        going, tokens, parents, log_probs = (pick(part, order) for part in (going, tokens, parents, log_probs))
        self.live.advance(tokens, parents, going, log_probs, attention)
        if last:
            self._finish(going, self._columns(going), length, words=length)
            self.live.log_probs[:] = -np.inf
            return
        self.live.log_probs[self._done(length, has_ended)] = -np.inf
        self.live.drop_done()

    @staticmethod
    def _columns(values: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)

    def _finish(self, totals: NDArray[np.float64], beams: NDArray[np.int64], length: int, *, words: int) -> None:
        """Keep the best K of the finished hypotheses and those of `totals` [B,N], -inf for none, from `beams` [B,N].

        `length` divides the score, `words` is how many tokens of it are words: one less if it ended.
        """
        found = records(totals, words, beams, self._score_divisor(length), finished=words < length)
        found = np.concatenate([self.best[self.live.images], found], axis=1)
        self.best[self.live.images] = pick(found, descending(found["score"]))[:, : self.width]

    def _done(self, length: int, has_ended: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the images in the batch are done, [B]; `has_ended` says whose best continuation ended."""
        if self.width == 1:
            return has_ended
        worst = self.best["score"][self.live.images, -1]  # [B]; -inf until K have finished
        full = (worst > -np.inf) & (self.decoding.early_stopping == "true")
        assumed = self._longest if self.decoding.early_stopping == "never" else length
        return full | (self.live.log_probs.max(axis=1) / self._score_divisor(assumed) <= worst)
