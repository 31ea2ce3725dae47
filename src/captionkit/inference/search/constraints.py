"""What a caption must not say, and what it must begin with or contain, as token ids."""

from __future__ import annotations

from collections.abc import Iterator
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


class NgramBlocker:
    """The words that each hypothesis must not say next, for what it has said already: [B,K,R] candidates.

    They would complete a banned phrase, or say a run of `no_repeat` words again, or the last word twice.
    """

    def __init__(self, said: NDArray[np.int64], no_repeat: int, phrases: tuple[Sequence, ...]) -> None:
        """`said` [B,K,L]: the words of each hypothesis; only looked at if `no_repeat` or `phrases` ask for it."""
        #: the last word [B,K,1], where it must not be said twice
        self._last: NDArray[np.int64] | None = None
        #: the other words [B,K,F] that some hypothesis must keep from
        self._forbidden: NDArray[np.int64] | None = None
        #: so many more tokens must be ranked for the best of the others to be among them
        self.most = 0
        if no_repeat and said.shape[2]:
            self._last, self.most = said[:, :, -1:], 1
        found = [*_runs(said, no_repeat), *_completed(said, phrases)]
        # Nearly always no run or phrase has been begun anew; those that no hypothesis must keep from are let go.
        found = [(words, again) for words, again in found if again.any()]
        if found:
            words, again = (np.concatenate(part, axis=2) for part in zip(*found, strict=True))
            self.most += int(again.sum(2).max())
            self._forbidden = np.where(again, words, _NO_TOKEN)[:, :, again.any((0, 1))]

    def forbid(self, log_probs: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """`log_probs` [B,K,T] of tokens `ids`, -inf where a token is forbidden."""
        if not self.most:
            return log_probs
        again = np.zeros(ids.shape, bool) if self._last is None else ids == self._last  # [B,K,T] == [B,K,1]
        if self._forbidden is not None:
            again |= (ids[..., None] == self._forbidden[:, :, None, :]).any(-1)  # [B,K,T]
        return np.where(again, log_probs.dtype.type(-np.inf), log_probs)


def _runs(said: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """The last words [B,K,N] of all runs of `size` words that have been said, and which have been begun anew."""
    runs = said.shape[2] - size + 1  # the next word would complete one more
    if size < 1 or runs < 1:
        return
    again = np.ones((*said.shape[:2], runs), bool)
    for place in range(size - 1):
        again &= said[:, :, place : place + runs] == said[:, :, runs + place, None]  # [B,K,N] == [B,K,1]
    yield said[:, :, size - 1 :], again


def _completed(
    said: NDArray[np.int64], phrases: tuple[Sequence, ...]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """The last word [B,K,1] of each phrase, and where all that is before it has just been said."""
    length = said.shape[2]
    for phrase in phrases:
        before = len(phrase) - 1
        if before <= length:
            begun = (said[:, :, length - before :] == phrase[:-1]).all(-1, keepdims=True)  # [B,K,1]
            yield np.full(begun.shape, phrase[-1]), begun


def forbidden_after(said: Sequence, no_repeat: int, phrases: tuple[Sequence, ...]) -> set[int]:
    """The words that may not follow those of one hypothesis, as `NgramBlocker` finds them for many."""
    found = set()
    if no_repeat and said:
        found.add(said[-1])
        again = no_repeat - 1
        begun = said[len(said) - again :]
        found.update(said[at + again] for at in range(len(said) - again) if said[at : at + again] == begun)
    for phrase in phrases:
        before = len(phrase) - 1
        if before <= len(said) and said[len(said) - before :] == phrase[:-1]:
            found.add(phrase[-1])
    return found


def exclusion(excluded: frozenset[int] | set[int]) -> NDArray[np.float64]:
    """What is added to the log-probability of each id; the last entry, 0, serves every id beyond the excluded ones."""
    mask = np.zeros(max(excluded) + 2)
    mask[list(excluded)] = -np.inf
    return mask
