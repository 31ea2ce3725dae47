"""Beam search, optionally with diverse groups and with forced words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from captionkit.inference.search.constraint_bank import Grid
from captionkit.inference.search.constraints import NgramBlocker, exclusion
from captionkit.inference.search.hypothesis import NONE, Hypothesis, descending, finished_first, pick, records, trace
from captionkit.inference.search.stepper import WHOLE, BeamState, SearchRequest


def beam_search(asked: SearchRequest) -> list[list[Hypothesis]]:
    """Return the `num_captions` best hypotheses of each image, all different, best first.

    At each step every live hypothesis is continued by every token that is not banned (nor the end token before
    `min_length` words, nor a token forbidden by `no_repeat_ngram_size` or a banned phrase). Of these continuations,
    ranked by log-probability over all beams, the best 2K are considered: those among the best K that end are finished,
    and the best K that do not end stay live. At most K of the 2K end, so at least K are left to stay live. Greedy
    search (K=1) is done at its first end token.

    An image is done when its `num_captions`-th best finished hypothesis scores at least as high as any live one still
    could: log-probabilities only fall, so log_prob / (longest possible length)**length_penalty bounds the score. Live
    hypotheses of `max_length` words may still end; those that do not are cut. A cut caption ranks after all finished
    ones, whatever its score, so it is returned only if too few have finished.

    With forced words, each bank of `constraint_bank` is such a beam of K. Only hypotheses that contain all of them may
    end, and a cut caption that does not contain them is dropped.

    With `num_beam_groups` (diverse beam search, Vijayakumar et al. 2018, arXiv 1610.02424, with Hamming diversity),
    each group is such a beam of K / num_beam_groups. A word is ranked `diversity_penalty` lower for each live
    hypothesis of an earlier group that contains it at the same step; that affects the choice at this step only, and
    neither log_prob nor score. The result is each group's best caption, then each group's second best, and so on,
    skipping duplicates, until there are `num_captions`; these are then sorted by score.
    """
    return _Beams(asked).run()


class _Continuations(NamedTuple):
    """Every hypothesis with every token ranked for it, M = K*T per row."""

    log_probs: NDArray[np.float64]  # [B,M], of the whole hypothesis
    token_log_probs: NDArray[np.float32]  # [B,M]
    ids: NDArray[np.int64]  # [B,M]
    ends: NDArray[np.bool_]  # [B,M]: where the token is the end token
    banks: NDArray[np.int64] | None  # [B,M]
    width: int  # T


class _Chosen(NamedTuple):
    """The continuations that stay live in a group."""

    places: NDArray[np.int64]  # [B,K of the group], into M
    log_probs: NDArray[np.float64]  # [B,K of the group]


class _Beams:
    """One search. The K hypotheses of an image are ordered by group, and within a group by bank."""

    def __init__(self, asked: SearchRequest) -> None:
        stepper, begun, decoding, constraints, (start_ids, eos_id, banned, *_) = asked
        self.decoding, self.eos_id = decoding, eos_id
        self.phrases = constraints.banned_phrases
        self.banned = banned | constraints.banned_tokens
        self.start, self.longest = len(constraints.prefix), decoding.max_length + 1
        self.width = decoding.num_beams // decoding.num_beam_groups
        self.grid = Grid(constraints.words, constraints.prefix, len(begun.images)) if constraints.words else None
        self.banks = self.grid.banks if self.grid else 1
        excluded = self.banned | {eos_id}
        # A continuation that stays live is among the K best words allowed for its beam, and one that ends is among the
        # K best allowed tokens. In the beam's ranking only excluded tokens can precede them, so rank K + |excluded| is
        # the last that can matter, whether or not the end token is allowed. A group has a smaller K, and the hypotheses
        # of other groups push back one word each. With banks, multiply by their number; forced tokens may also precede.
        self.ranks = decoding.num_beams * self.banks + len(excluded) + (len(self.grid.tokens) if self.grid else 0)
        self.mask = exclusion(excluded)
        remember = bool(decoding.no_repeat_ngram_size or self.phrases)
        self.live = BeamState(stepper, begun, start_ids, constraints.prefix, self.banned, remember=remember)
        self.best = [np.full((len(begun.images), decoding.num_captions), NONE) for _ in range(decoding.num_beam_groups)]

    def run(self) -> list[list[Hypothesis]]:
        for length in range(self.start, self.longest):  # words in each live hypothesis
            if length >= self.decoding.min_length and self.eos_id not in self.banned:
                self.mask[self.eos_id] = 0
            options, attention = self._continuations()
            if length == self.decoding.max_length:
                for group in range(self.decoding.num_beam_groups):
                    self._cut(group, options)
                break
            chosen: list[_Chosen] = []
            for group in range(self.decoding.num_beam_groups):
                chosen.append(self._continue(group, options, chosen, length))
            self._advance(options, chosen, attention)
            if self.live.over:
                break
        groups = [trace(best, self.live.steps) for best in self.best]
        if len(groups) == 1:
            return groups[0]
        return [_merge(found, self.decoding.num_captions) for found in zip(*groups, strict=True)]

    def _continuations(self) -> tuple[_Continuations, NDArray[np.float32]]:
        """Return the continuations of the live hypotheses, and the attention [B,K,G] of the step."""
        forbidden = NgramBlocker(self.live.said, self.decoding.no_repeat_ngram_size, self.phrases)
        ranks = self.ranks + forbidden.most
        log_probs, ids, attention = self.live.step(WHOLE if self.grid else ranks)
        banks = None
        if self.grid:
            log_probs, ids, banks = self.grid.continuations(log_probs, ids, ranks, self.eos_id)
        log_probs = forbidden.forbid(log_probs, ids)
        if ids[0].size < self.width:  # a vocabulary with fewer tokens than there are beams
            missing = [(0, 0), (0, 0), (0, self.width - ids.shape[2])]
            log_probs = np.pad(log_probs, missing, constant_values=-np.inf)
            ids = np.pad(ids, missing, constant_values=self.eos_id)
            banks = None if banks is None else np.pad(banks, missing)
        n, width = len(ids), ids.shape[2]
        totals = self.live.log_probs[:, :, None] + log_probs + self.mask.take(ids, mode="clip")
        banks = None if banks is None else banks.reshape(n, -1)
        ids = ids.reshape(n, -1)
        totals, log_probs = totals.reshape(n, -1), log_probs.reshape(n, -1)
        return _Continuations(totals, log_probs, ids, ids == self.eos_id, banks, width), attention

    def _lanes(self, group: int, options: _Continuations, earlier: list[_Chosen]) -> Iterator[NDArray[np.float64]]:
        """Yield scores [B,M] by which each bank of a group ranks the continuations; -inf outside the bank."""
        scores = options.log_probs
        size = self.banks * self.width * options.width
        if (
            self.decoding.num_beam_groups > 1 and scores.shape[1] > options.width
        ):  # at first, all groups share one hypothesis
            scores = np.full_like(scores, -np.inf)
            part = slice(group * size, (group + 1) * size)
            scores[:, part] = options.log_probs[:, part]
        if earlier:
            scores = scores - self.decoding.diversity_penalty * _times_said(options, earlier)
        for bank in range(self.banks):
            yield scores if options.banks is None else np.where(options.banks == bank, scores, -np.inf)

    def _continue(self, group: int, options: _Continuations, earlier: list[_Chosen], length: int) -> _Chosen:
        """Finish the hypotheses that end, and choose those that stay live."""
        places, log_probs = [], []
        for lane in self._lanes(group, options, earlier):
            best = descending(lane)[:, : 2 * self.width]
            ends, possible = pick(options.ends, best), pick(lane, best) > -np.inf
            has_ended = self._finish(group, options, best, ends & possible, length)
            if ends.any():
                words = np.argsort(ends, axis=1, kind="stable")
                best, possible = pick(best, words), pick(possible & ~ends, words)
            best, possible = best[:, : self.width], possible[:, : self.width]
            log_probs.append(np.where(possible, pick(options.log_probs, best), -np.inf))
            places.append(best)
        live = _side_by_side(log_probs)
        # The captions are taken from the groups in turn, so each contributes at most this many.
        share = -(-self.decoding.num_captions // self.decoding.num_beam_groups)
        reachable = live.max(axis=1) / self.decoding.divisor(self.decoding.furthest(length))
        done = self.best[group]["score"][self.live.images, share - 1] >= reachable
        if self.width == 1 and not self.grid:
            done |= has_ended[:, 0]
        live[done] = -np.inf
        return _Chosen(_side_by_side(places), live)

    def _finish(
        self,
        group: int,
        options: _Continuations,
        best: NDArray[np.int64],
        ends: NDArray[np.bool_],
        length: int,
    ) -> NDArray[np.bool_]:
        """Keep those of a bank's K best [B,2K] that end; return which of them do, [B,K]."""
        best, ends = best[:, : self.width], ends[:, : self.width]
        if ends.any():
            origin = best // options.width
            ended = np.where(ends, pick(options.log_probs, best), -np.inf)
            found = records(ended, length, origin, self.decoding.divisor(length + 1), finished=True)
            found = np.concatenate([self.best[group][self.live.images], found], axis=1)
            found = pick(found, descending(found["score"]))
            self.best[group][self.live.images] = found[:, : self.decoding.num_captions]
            if length == self.decoding.max_length:
                self.live.log_probs[np.nonzero(ends)[0], origin[ends]] = -np.inf
        return ends

    def _cut(self, group: int, options: _Continuations) -> None:
        """End the hypotheses of `max_length` words that can end, and cut the others."""
        length = self.decoding.max_length
        for lane in self._lanes(group, options, []):
            best = descending(lane)
            self._finish(group, options, best, pick(options.ends, best) & (pick(lane, best) > -np.inf), length)
        log_probs = self.live.log_probs
        if self.grid:
            log_probs = np.where(self.grid.met, log_probs, -np.inf)
        columns = np.arange(log_probs.shape[1])
        if len(columns) > 1:
            size = self.banks * self.width
            columns = columns[group * size : (group + 1) * size]
        found = records(log_probs[:, columns], length, columns, self.decoding.divisor(length), finished=False)
        found = np.concatenate([self.best[group][self.live.images], found], axis=1)
        self.best[group][self.live.images] = finished_first(found)[:, : self.decoding.num_captions]

    def _advance(self, options: _Continuations, chosen: list[_Chosen], attention: NDArray[np.float32]) -> None:
        """Make the chosen continuations the live hypotheses."""
        places = _side_by_side([group.places for group in chosen])
        live = _side_by_side([group.log_probs for group in chosen])
        tokens, parents = pick(options.ids, places), places // options.width
        self.live.advance(tokens, parents, live, pick(options.token_log_probs, places), attention)
        if self.grid:
            self.grid.advance(parents, tokens)
        stay = self.live.drop_done()
        if stay is not None and self.grid:
            self.grid.keep(stay)


def _times_said(options: _Continuations, chosen: list[_Chosen]) -> NDArray[np.int64]:
    """Count how many of the `chosen` continuations have the same word as each continuation [B,M]; 0 for end tokens."""
    places = _side_by_side([group.places for group in chosen])
    live = _side_by_side([group.log_probs for group in chosen]) > -np.inf
    words = np.where(live, options.ids[np.arange(len(places))[:, None], places], -1)
    return np.where(options.ends, 0, (options.ids[:, :, None] == words[:, None, :]).sum(2))


def _side_by_side(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate [B,K] arrays; usually there is just one, which is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)


def _merge(groups: Sequence[list[Hypothesis]], wanted: int) -> list[Hypothesis]:
    """Take each group's best, then each one's second best, and so on, without duplicates; then sort by score."""
    found: dict[tuple[int, ...], Hypothesis] = {}
    waiting = [iter(group) for group in groups]
    while waiting and len(found) < wanted:
        for group in list(waiting):
            fresh = next((h for h in group if tuple(h.tokens.tolist()) not in found), None)
            if fresh is None:
                waiting.remove(group)
            elif len(found) < wanted:
                found[tuple(fresh.tokens.tolist())] = fresh
    return sorted(found.values(), key=lambda hypothesis: (not hypothesis.finished, -hypothesis.score))
