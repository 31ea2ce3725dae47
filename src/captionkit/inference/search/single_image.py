"""Beam search for one image, in plain Python.

A small beam has a few dozen numbers per step. Calling numpy costs more than ranking them in Python, especially when the
decoder has just filled the processor's caches with its weights.
"""

from __future__ import annotations

import math
from itertools import islice
from operator import attrgetter, itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captionkit.inference.search.constraints import forbidden_after
from captionkit.inference.search.hypothesis import Hypothesis
from captionkit.inference.search.stepper import SearchRequest

#: beam sizes up to which this is faster than `beam_search`
_FEW = 8

Continuation = tuple[float, int, int, float]  # total log-probability, beam, token, log-probability of the token


class _Live(NamedTuple):
    """A live hypothesis."""

    log_prob: float
    words: tuple[int, ...]
    log_probs: tuple[float, ...]
    attention: tuple[NDArray[np.float32], ...]  # [G] for each word


class _Found(NamedTuple):
    """A hypothesis that has ended or was cut."""

    score: float
    log_prob: float
    live: _Live
    finished: bool


def suits(asked: SearchRequest) -> bool:
    """Return whether `search_alone` applies: one image, one start token, small beam, no groups, prefix or words."""
    plain = asked.decoding.num_beam_groups == 1 and not asked.constraints.words and not asked.constraints.prefix
    one = len(asked.begun.images) == len(asked.special.start) == 1
    return one and asked.decoding.num_beams <= _FEW and plain


def search_alone(asked: SearchRequest) -> list[list[Hypothesis]]:
    """Return what `beam_search` finds for one image where `suits` is true, in the same order."""
    return [_Alone(asked).run()]


class _Alone:
    """One search."""

    def __init__(self, asked: SearchRequest) -> None:
        stepper, begun, decoding, constraints, (start_ids, eos_id, banned, *_) = asked
        self.decoding, self.eos_id = decoding, eos_id
        self.phrases = constraints.banned_phrases
        self.banned = banned | constraints.banned_tokens
        #: as in `beam_search`: the last rank that can matter if no token is forbidden
        self.ranks = decoding.num_beams + len(self.banned | {eos_id})
        self.stepper, self._state = stepper, begun.state
        self.tokens, self.parents = [*start_ids], [0]
        self.live = [_Live(0.0, (), (), ())]
        self.best: list[_Found] = []
        self.grid = 0  # G; set by the first step

    def run(self) -> list[Hypothesis]:
        """Run the search and return the hypotheses, best first."""
        for length in range(self.decoding.max_length + 1):  # words in each live hypothesis
            options, attention = self._continuations(length)
            ended = self._finish(options[: self.decoding.num_beams], length)
            if length == self.decoding.max_length:
                self._cut(length, {beam for _, beam, _, _ in ended})
                break
            chosen = [option for option in options if option[2] != self.eos_id][: self.decoding.num_beams]
            if self._is_done(chosen, ended, length):
                break
            self._advance(chosen, attention)
        return [self._hypothesis(found) for found in self.best]

    def _continuations(self, length: int) -> tuple[list[Continuation], NDArray[np.float32]]:
        """Return the best 2K allowed continuations, best first, and the attention [K,G] of the step.

        Among equally good ones, those of the first hypothesis come first, then the likelier word.
        """
        no_repeat_ngram_size, phrases = self.decoding.no_repeat_ngram_size, self.phrases
        excluded = self.banned if length >= self.decoding.min_length else self.banned | {self.eos_id}
        forbidden = [forbidden_after(live.words, no_repeat_ngram_size, phrases) for live in self.live]
        ranks = self.ranks + max(map(len, forbidden))
        tokens, parents = np.array([self.tokens]), np.array([self.parents])  # [1,K]
        log_probs, ids, attention, self._state = self.stepper.step(tokens, parents, self._state, ranks)
        self.grid = attention.shape[2]
        options: list[Continuation] = []
        most = 2 * self.decoding.num_beams  # so at most as many from each hypothesis, likeliest words first
        for beam, kept_from in enumerate(forbidden):
            so_far = self.live[beam].log_prob
            ranked = zip(ids[0, beam].tolist(), log_probs[0, beam].tolist(), strict=True)
            allowed = (
                (so_far + log_prob, beam, token, log_prob)
                for token, log_prob in ranked
                if log_prob > -math.inf and token not in excluded and token not in kept_from
            )
            options += islice(allowed, most)
        options.sort(key=itemgetter(0), reverse=True)  # stable: equal ones keep their order
        return options[:most], attention[0]

    def _finish(self, options: list[Continuation], length: int) -> list[Continuation]:
        """Keep the hypotheses that end and return them."""
        ended = [option for option in options if option[2] == self.eos_id]
        if ended:
            divisor = self.decoding.divisor(length + 1)
            found = [_Found(option[0] / divisor, option[0], self.live[option[1]], True) for option in ended]
            self._keep(found)
        return ended

    def _keep(self, found: list[_Found]) -> None:
        self.best = sorted(self.best + found, key=attrgetter("score"), reverse=True)[: self.decoding.num_captions]

    def _cut(self, length: int, ended: set[int]) -> None:
        """Cut the hypotheses that have not `ended`; they rank after all that have."""
        divisor, many = self.decoding.divisor(length), self.decoding.num_captions
        cut = [
            _Found(live.log_prob / divisor, live.log_prob, live, False)
            for beam, live in enumerate(self.live)
            if beam not in ended
        ]
        self.best = (self.best + sorted(cut, key=attrgetter("score"), reverse=True))[:many]

    def _is_done(self, chosen: list[Continuation], ended: list[Continuation], length: int) -> bool:
        """Return whether no hypothesis is live, or none that is could still rank among the best."""
        if not chosen or (ended and self.decoding.num_beams == 1):
            return True
        furthest = self.decoding.furthest(length)
        enough = len(self.best) == self.decoding.num_captions
        return enough and self.best[-1].score >= chosen[0][0] / self.decoding.divisor(furthest)

    def _advance(self, chosen: list[Continuation], attention: NDArray[np.float32]) -> None:
        lives = []
        for log_prob, beam, token, token_log_prob in chosen:
            _, words, log_probs, seen = self.live[beam]
            lives.append(_Live(log_prob, (*words, token), (*log_probs, token_log_prob), (*seen, attention[beam])))
        self.live = lives
        self.tokens, self.parents = [option[2] for option in chosen], [option[1] for option in chosen]

    def _hypothesis(self, found: _Found) -> Hypothesis:
        live = found.live
        attention = np.stack(live.attention) if live.words else np.empty((0, self.grid), np.float32)  # [L,G]
        log_probs = np.array(live.log_probs, np.float32)
        words = np.array(live.words, np.int64)
        return Hypothesis(words, found.log_prob, found.score, log_probs, attention, found.finished)
