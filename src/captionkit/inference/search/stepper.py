"""A decoder as the search sees it, and what every way of decoding does with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from captionkit.inference.search.constraints import Constraints
from captionkit.inference.search.generation_config import Decoding
from captionkit.inference.search.hypothesis import Step

State = Any  # whatever a Stepper carries from step to step; the search only hands it back

#: a `top_k` that asks for the whole vocabulary
WHOLE = 2**31 - 1


class Stepper(Protocol):
    """A decoder as the search sees it. What `step` returns is kept until the search ends; do not overwrite it.

    It may also have a method `keep(state, rows) -> state`, which reduces a state to the images `rows` [n], in rising
    order. The search then drops images that are done; without it, they are computed until the last one is done. Where
    its attribute `takes_bytes` is true, a captioner gives `begin` images as bytes [B,H,W,4]
    (data.images.preprocess_bytes). A method `overview(state) -> [B,D]` gives what a caption's confidence may be
    told from (captionkit.inference.confidence); it is asked for the state that `begin` made.
    """

    def begin(self, images: NDArray[np.float32]) -> State:
        """Encode images [B,3,H,W], once for all the beams."""

    def step(
        self, tokens: NDArray[np.int64], parents: NDArray[np.int64], state: State, top_k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], State]:
        """Feed each hypothesis its newest token, tokens [B,K], and rank what may follow.

        `parents` [B,K] says which beam of the previous step each hypothesis continues, so that caches are reordered.
        The first step has K=1, the begin token and parents of zero.
        Returns log-probabilities [B,K,T] in falling order and their token ids [B,K,T], T = min(top_k, vocabulary size);
        the attention [B,K,G] that produced them; and the next state.
        """


class SearchRequest(NamedTuple):
    """What a search is asked: whose captions, how, and with which tokens."""

    stepper: Stepper
    images: NDArray[np.float32]  # [B,3,H,W]
    decoding: Decoding
    constraints: Constraints
    bos_id: int
    eos_id: int
    banned: frozenset[int]  # tokens that are never chosen


class BeamState:
    """The images that are still decoded, and the log-probability of each hypothesis. Arrays have a row an image."""

    def __init__(
        self,
        stepper: Stepper,
        images: NDArray[np.float32],
        prefix: tuple[int, ...],
        bos_id: int,
        banned: frozenset[int],
        *,
        remember: bool,
    ) -> None:
        """Encode the images and say the `prefix`; the one hypothesis of each image is then ready to be continued.

        `remember` says whether `said` is kept.
        """
        self._stepper, self._remember = stepper, remember
        self._keep: Callable[[State, NDArray[np.int64]], State] | None = getattr(stepper, "keep", None)
        batch = len(images)
        self.images = np.arange(batch)  # [B]
        self.log_probs = np.zeros((batch, 1))  # [B,K]; -inf: fills up the shape, or of an image that is done
        self.tokens = np.full((batch, 1), bos_id, np.int64)  # [B,K]
        self.parents = np.zeros((batch, 1), np.int64)  # [B,K]
        self.said = np.empty((batch, 1, 0), np.int64)  # the words of each hypothesis, [B,K,L]; kept only if needed
        self.steps: list[Step] = []
        self._state = stepper.begin(images)
        start = np.zeros((batch, 1), np.int64)
        for token in prefix:
            log_probs, ids, attention = self.step(WHOLE)
            possible = (ids == token) & (log_probs > -np.inf) & (token not in banned)  # [B,1,V]; NaN is not
            said = np.where(possible, log_probs, -np.inf).max(2)  # [B,1]
            self.advance(np.full_like(start, token), start, self.log_probs + said, said, attention)

    def step(self, top_k: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """What may follow each hypothesis: log-probabilities and ids [B,K,T], attention [B,K,G]."""
        *ranked, self._state = self._stepper.step(self.tokens, self.parents, self._state, top_k)
        return tuple(ranked)  # type: ignore[return-value]

    def advance(
        self,
        tokens: NDArray[np.int64],
        parents: NDArray[np.int64],
        log_probs: NDArray[np.float64],
        token_log_probs: NDArray[np.float32],
        attention: NDArray[np.float32],
    ) -> None:
        """Go on with `tokens` [B,K], each after the hypothesis that `parents` [B,K] names; `log_probs` of the whole."""
        self.tokens, self.parents, self.log_probs = tokens, parents, log_probs
        if self._remember:
            said = self.said[np.arange(len(tokens))[:, None], parents]
            self.said = np.concatenate([said, tokens[:, :, None]], axis=2)  # [B,K,L+1]
        self.steps.append(Step(self.images, tokens, parents, token_log_probs, attention))

    def drop_done(self) -> NDArray[np.int64] | None:
        """Let go of the images without a live hypothesis; the rows that stay, or None if all do."""
        if self._keep is None or len(self.images) == 1:
            return None
        open_rows = np.nonzero(self.log_probs.max(axis=1) > -np.inf)[0]
        if len(open_rows) in (0, len(self.images)):
            return None
        self._state = self._keep(self._state, open_rows)
        for name in ("images", "log_probs", "tokens", "parents", "said"):
            setattr(self, name, getattr(self, name)[open_rows])
        return open_rows

    @property
    def over(self) -> bool:
        """Whether no hypothesis is live."""
        return not (self.log_probs > -np.inf).any()
