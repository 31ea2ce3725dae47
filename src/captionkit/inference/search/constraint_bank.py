"""Forced words: how far each hypothesis has come with the phrases that it must say.

The banks of a grid beam search (Hokamp and Liu 2017, arXiv 1704.07138): hypotheses compete only with those that have
said as many forced tokens as they have, so that the cheap ones, which have said none, do not crowd out the others. Here
every bank has the whole width of the beam. (Dynamic beam allocation, Post and Vilar 2018, shares one width among them.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from captionkit.inference.search.constraints import Sequence


class Grid:
    """Progress with P phrases of each hypothesis, arrays [B,K,P]; `banks` is how many counts of said tokens there are.

    Each phrase is looked for by itself (Knuth, Morris and Pratt 1977), so phrases may overlap themselves or each other.
    """

    def __init__(self, phrases: tuple[Sequence, ...], prefix: Sequence, batch: int) -> None:
        phrases = tuple(dict.fromkeys(phrases))
        self._sizes = np.array([len(phrase) for phrase in phrases], np.int64)  # [P]
        #: the tokens of all phrases, in rising order, [W]
        self.tokens = np.unique(np.concatenate([np.array(phrase, np.int64) for phrase in phrases]))
        self.banks = int(self._sizes.sum()) + 1
        # What is matched of a phrase after one token more, [P, matched before, W+1]; the last column: any other token.
        self._next = np.zeros((len(phrases), self._sizes.max() + 1, len(self.tokens) + 1), np.int64)
        for p, phrase in enumerate(phrases):
            for matched in range(len(phrase)):
                for w, token in enumerate(self.tokens.tolist()):
                    self._next[p, matched, w] = _matched(phrase, (*phrase[:matched], token))
            self._next[p, len(phrase)] = len(phrase)  # said once is said
        self._matched = np.zeros((batch, 1, len(phrases)), np.int64)
        for token in prefix:
            self.advance(np.zeros((batch, 1), np.int64), np.full((batch, 1), token))

    @property
    def met(self) -> NDArray[np.bool_]:
        """Which hypotheses [B,K] have said all phrases."""
        return (self._matched == self._sizes).all(-1)

    def continuations(
        self, log_probs: NDArray[np.float32], ids: NDArray[np.int64], ranks: int, eos_id: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Of whole rankings [B,K,V], what can matter: the best `ranks`, and the W tokens of the phrases.

        The result [B,K,T] has its banks with it. The end token stays possible only for those that have said everything.
        """
        top, ranked = log_probs[:, :, :ranks].copy(), ids[:, :, :ranks]
        top[self._column(ranked) < len(self.tokens)] = -np.inf  # they follow
        top[(ranked == eos_id) & ~self.met[:, :, None]] = -np.inf
        is_token = ids[:, :, None, :] == self.tokens[:, None]  # [B,K,W,V]
        forced = np.take_along_axis(log_probs, is_token.argmax(-1), axis=2)  # [B,K,W]
        forced[~is_token.any(-1) | (self.tokens == eos_id)] = -np.inf
        wanted = np.broadcast_to(self.tokens, forced.shape)
        banks = [self._bank(ranked), self._bank(wanted)]
        parts = ([top, forced], [ranked, wanted], banks)
        return tuple(np.concatenate(part, axis=2) for part in parts)  # type: ignore[return-value]

    def advance(self, parents: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        """Each hypothesis [B,K] continues its parent with a token."""
        before = self._matched[np.arange(len(parents))[:, None], parents]  # [B,K,P]
        self._matched = self._next[np.arange(len(self._sizes)), before, self._column(tokens)[:, :, None]]

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Reduce to these images."""
        self._matched = self._matched[rows]

    def _bank(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many forced tokens each hypothesis has said once it goes on with `tokens` [B,K,T]."""
        counts = self._next[np.arange(len(self._sizes)), self._matched].sum(2)  # [B,K,P,W+1] -> [B,K,W+1]
        return np.take_along_axis(counts, self._column(tokens), axis=2)

    def _column(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where tokens of any shape stand in `tokens`; W for those that no phrase has."""
        places = np.searchsorted(self.tokens, tokens).clip(max=len(self.tokens) - 1)
        return np.where(self.tokens[places] == tokens, places, len(self.tokens))


def _matched(phrase: Sequence, said: Sequence) -> int:
    """How many tokens of `phrase` the longest end of `said` is that begins it."""
    return next(n for n in range(min(len(phrase), len(said)), -1, -1) if phrase[:n] == said[len(said) - n :])
