"""Constraints on captions as token ids: banned sequences, a prefix, and forced sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sequence = tuple[int, ...]

_NO_TOKEN = -1


@dataclass(frozen=True)
class Constraints:
    """Token sequences, all non-empty except the prefix."""

    #: the beginning of every caption
    prefix: Sequence = ()
    #: sequences that no caption contains
    banned: tuple[Sequence, ...] = ()
    #: sequences that every caption contains, in any order; they may overlap in the caption
    words: tuple[Sequence, ...] = ()

    @property
    def banned_tokens(self) -> frozenset[int]:
        """Return the banned sequences of one token."""
        return frozenset(sequence[0] for sequence in self.banned if len(sequence) == 1)

    @property
    def banned_phrases(self) -> tuple[Sequence, ...]:
        """Return the banned sequences of several tokens."""
        return tuple(sequence for sequence in self.banned if len(sequence) > 1)


class NgramBlocker:
    """The words that each hypothesis must not generate next, given its words so far: [B,K,R] candidates.

    They would complete a banned phrase, repeat a run of `no_repeat_ngram_size` words, or repeat the last word.
    """

    def __init__(
        self,
        said: NDArray[np.int64],
        no_repeat_ngram_size: int,
        phrases: tuple[Sequence, ...],
        *,
        adjacent: bool = True,
    ) -> None:
        """`said` [B,K,L], the words of each hypothesis, is used only if one of the next two arguments requires it.

        Unless `adjacent`, `no_repeat_ngram_size` lets the last word follow itself.
        """
        #: the last word [B,K,1], if it must not be repeated
        self._last: NDArray[np.int64] | None = None
        #: the other words [B,K,F] that are forbidden for some hypothesis
        self._forbidden: NDArray[np.int64] | None = None
        #: number of extra ranks needed so that the best allowed tokens are still among the ranked ones
        self.most = 0
        if adjacent and no_repeat_ngram_size and said.shape[2]:
            self._last, self.most = said[:, :, -1:], 1
        found = [*_runs(said, no_repeat_ngram_size), *_completed(said, phrases)]
        # Almost always no run or phrase is about to repeat; drop words that are forbidden for no hypothesis.
        found = [(words, again) for words, again in found if again.any()]
        if found:
            words, again = (np.concatenate(part, axis=2) for part in zip(*found, strict=True))
            self.most += int(again.sum(2).max())
            self._forbidden = np.where(again, words, _NO_TOKEN)[:, :, again.any((0, 1))]

    def forbid(self, log_probs: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return `log_probs` [B,K,T] of tokens `ids`, with -inf where a token is forbidden."""
        if not self.most:
            return log_probs
        again = np.zeros(ids.shape, bool) if self._last is None else ids == self._last  # [B,K,T] == [B,K,1]
        if self._forbidden is not None:
            again |= (ids[..., None] == self._forbidden[:, :, None, :]).any(-1)  # [B,K,T]
        return np.where(again, log_probs.dtype.type(-np.inf), log_probs)


def _runs(said: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Yield the last words [B,K,N] of all runs of `size` words so far, and which runs have been begun again."""
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
    """Yield the last word [B,K,1] of each phrase, and where the words before it have just been generated."""
    length = said.shape[2]
    for phrase in phrases:
        before = len(phrase) - 1
        if before <= length:
            begun = (said[:, :, length - before :] == phrase[:-1]).all(-1, keepdims=True)  # [B,K,1]
            yield np.full(begun.shape, phrase[-1]), begun


def forbidden_after(said: Sequence, no_repeat_ngram_size: int, phrases: tuple[Sequence, ...]) -> set[int]:
    """Return the words that may not follow one hypothesis; `NgramBlocker` does the same for many."""
    found = set()
    if no_repeat_ngram_size and said:
        found.add(said[-1])
        again = no_repeat_ngram_size - 1
        begun = said[len(said) - again :]
        found.update(said[at + again] for at in range(len(said) - again) if said[at : at + again] == begun)
    for phrase in phrases:
        before = len(phrase) - 1
        if before <= len(said) and said[len(said) - before :] == phrase[:-1]:
            found.add(phrase[-1])
    return found


def exclusion(excluded: frozenset[int] | set[int]) -> NDArray[np.float64]:
    """Return what to add to the log-probability of each id.

    The last entry, 0, serves every id beyond the excluded ones.
    """
    mask = np.zeros(max(excluded) + 2)
    mask[list(excluded)] = -np.inf
    return mask
