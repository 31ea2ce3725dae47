"""Forced words: the progress of each hypothesis through the phrases that it must contain.

The banks of grid beam search (Hokamp and Liu 2017, arXiv 1704.07138): hypotheses compete only with those that have
generated the same number of forced tokens, so that the likelier ones, with none, do not crowd out the others. Here
every bank has the full beam width. (Dynamic beam allocation, Post and Vilar 2018, shares one width among them.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from captionkit.inference.search.constraints import Sequence


class Grid:
    """Progress of each hypothesis through P phrases, arrays [B,K,P].

    `banks` is the number of possible forced-token counts. Each phrase is matched separately (Knuth, Morris and Pratt
    1977), so phrases may overlap themselves or each other.
    """

    def __init__(self, phrases: tuple[Sequence, ...], prefix: Sequence, batch: int) -> None:
        phrases = tuple(dict.fromkeys(phrases))
        self._sizes = np.array([len(phrase) for phrase in phrases], np.int64)  # [P]
        #: the tokens of all phrases, in rising order, [W]
        self.tokens = np.unique(np.concatenate([np.array(phrase, np.int64) for phrase in phrases]))
        self.banks = int(self._sizes.sum()) + 1
        # Matched length of a phrase after one more token, [P, matched before, W+1]; the last column: any other token.
        self._next = np.zeros((len(phrases), self._sizes.max() + 1, len(self.tokens) + 1), np.int64)
        for p, phrase in enumerate(phrases):
            for matched in range(len(phrase)):
                for w, token in enumerate(self.tokens.tolist()):
                    self._next[p, matched, w] = _matched(phrase, (*phrase[:matched], token))
            self._next[p, len(phrase)] = len(phrase)  # once complete, it stays complete
        self._matched = np.zeros((batch, 1, len(phrases)), np.int64)
        for token in prefix:
            self.advance(np.zeros((batch, 1), np.int64), np.full((batch, 1), token))

    @property
    def met(self) -> NDArray[np.bool_]:
        """Return which hypotheses [B,K] contain all phrases."""
        return (self._matched == self._sizes).all(-1)

    def continuations(
        self, log_probs: NDArray[np.float32], ids: NDArray[np.int64], ranks: int, eos_id: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Reduce full rankings [B,K,V] to what can matter: the best `ranks`, and the W tokens of the phrases.

        Returns log-probabilities, ids and banks, [B,K,T]. Only hypotheses that contain all phrases may end.
        """
        top, ranked = log_probs[:, :, :ranks].copy(), ids[:, :, :ranks]
        top[self._column(ranked) < len(self.tokens)] = -np.inf  # appended below
        top[(ranked == eos_id) & ~self.met[:, :, None]] = -np.inf
        is_token = ids[:, :, None, :] == self.tokens[:, None]  # [B,K,W,V]
        forced = np.take_along_axis(log_probs, is_token.argmax(-1), axis=2)  # [B,K,W]
        forced[~is_token.any(-1) | (self.tokens == eos_id)] = -np.inf
        wanted = np.broadcast_to(self.tokens, forced.shape)
        banks = [self._bank(ranked), self._bank(wanted)]
        parts = ([top, forced], [ranked, wanted], banks)
        return tuple(np.concatenate(part, axis=2) for part in parts)  # type: ignore[return-value]

    def advance(self, parents: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        """Update the progress: each hypothesis [B,K] continues its parent with a token."""
        before = self._matched[np.arange(len(parents))[:, None], parents]  # [B,K,P]
        self._matched = self._next[np.arange(len(self._sizes)), before, self._column(tokens)[:, :, None]]

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Keep these images only."""
        self._matched = self._matched[rows]

    def _bank(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of forced tokens each hypothesis has generated once it continues with `tokens` [B,K,T]."""
        counts = self._next[np.arange(len(self._sizes)), self._matched].sum(2)  # [B,K,P,W+1] -> [B,K,W+1]
        return np.take_along_axis(counts, self._column(tokens), axis=2)

    def _column(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices in `self.tokens` of tokens of any shape; W for those that are in no phrase."""
        places = np.searchsorted(self.tokens, tokens).clip(max=len(self.tokens) - 1)
        return np.where(self.tokens[places] == tokens, places, len(self.tokens))


def _matched(phrase: Sequence, said: Sequence) -> int:
    """Return the length of the longest suffix of `said` that is a prefix of `phrase`."""
    return next(n for n in range(min(len(phrase), len(said)), -1, -1) if phrase[:n] == said[len(said) - n :])
