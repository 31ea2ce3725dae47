"""What a caption must not say, and what it must begin with or contain, as token ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sequence = tuple[int, ...]

_NO_TOKEN = -1


@dataclass(frozen=True)
class Constraints:
    """Token sequences, none of them empty but for the prefix."""

    #: what each caption begins with
    prefix: Sequence = ()
    #: what no caption contains
    banned: tuple[Sequence, ...] = ()
    #: what each caption contains, in any order; two of them may share tokens of the caption
    words: tuple[Sequence, ...] = ()

    @property
    def banned_tokens(self) -> frozenset[int]:
        """The banned sequences of one token."""
        return frozenset(sequence[0] for sequence in self.banned if len(sequence) == 1)

    @property
    def banned_phrases(self) -> tuple[Sequence, ...]:
        """The banned sequences of several tokens."""
        return tuple(sequence for sequence in self.banned if len(sequence) > 1)


class Forbidden:
    """The words that each hypothesis must not say next, for what it has said already: [B,K,R] candidates.

    They would complete a banned phrase, or say a run of `no_repeat` words again, or the last word twice.
    """

    def __init__(self, said: NDArray[np.int64], no_repeat: int, phrases: tuple[Sequence, ...]) -> None:
        """`said` [B,K,L]: the words of each hypothesis; only looked at if `no_repeat` or `phrases` ask for it."""
        self._words: list[NDArray[np.int64]] = []
        self._apply: list[NDArray[np.bool_]] = []
        length = said.shape[2]
        if no_repeat and length:
            self._add(said[:, :, -1:], np.ones((*said.shape[:2], 1), bool))
        if 0 < no_repeat <= length:
            runs = length - no_repeat + 1  # that have been said; the next word would complete one more
            again = np.ones((*said.shape[:2], runs), bool)
            for place in range(no_repeat - 1):
                again &= said[:, :, place : place + runs] == said[:, :, runs + place, None]  # [B,K,L-N+1] == [B,K,1]
            self._add(said[:, :, no_repeat - 1 :], again)
        for phrase in phrases:
            before = len(phrase) - 1
            if before <= length:
                again = (said[:, :, length - before :] == phrase[:-1]).all(-1, keepdims=True)  # [B,K,1]
                self._add(np.full(again.shape, phrase[-1]), again)
        #: so many more tokens must be ranked for the best of the others to be among them
        self.most = 0
        if self._apply:
            apply = np.concatenate(self._apply, axis=2)
            self.most = int(apply.sum(2).max())
            # Nearly all runs have not been begun anew: those that no hypothesis must keep from are let go.
            some = apply.any((0, 1))
            self._forbidden = np.where(apply, np.concatenate(self._words, axis=2), _NO_TOKEN)[:, :, some]

    def _add(self, words: NDArray[np.int64], apply: NDArray[np.bool_]) -> None:
        self._words.append(words)
        self._apply.append(apply)

    def forbid(self, log_probs: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """`log_probs` [B,K,T] of tokens `ids`, -inf where a token is forbidden."""
        if not self.most:
            return log_probs
        again = (ids[..., None] == self._forbidden[:, :, None, :]).any(-1)  # [B,K,T]
        return np.where(again, log_probs.dtype.type(-np.inf), log_probs)


def exclusion(excluded: frozenset[int] | set[int]) -> NDArray[np.float64]:
    """What is added to the log-probability of each id; the last entry, 0, serves every id beyond the excluded ones."""
    mask = np.zeros(max(excluded) + 2)
    mask[list(excluded)] = -np.inf
    return mask
