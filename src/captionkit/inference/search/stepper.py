"""The decoder interface of the search, and the beam state shared by all decoding methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from captionkit.data.special_tokens import SpecialTokens
from captionkit.inference.search.constraints import Constraints
from captionkit.inference.search.generation_config import Decoding
from captionkit.inference.search.hypothesis import Step

State = Any  # opaque to the search, which only passes it back to the Stepper

#: a `top_k` that requests the whole vocabulary
WHOLE = 2**31 - 1

#: the name of a concept head's evidence among the tensors of a state
CONCEPTS = "memory.concepts"

#: what not every model can do: attention maps; constraints (prefix, forced and banned words); a fitted confidence; a
#: prompt, such as the task that a model is to perform
Capability = Literal["attention", "constraints", "confidence", "prompt"]


class Overview(NamedTuple):
    """What a caption's confidence may use of an image besides the search (captionkit.inference.caption_confidence)."""

    #: features of the image as the decoder sees it, [B,D], or [D] of one image
    means: NDArray[np.float32]
    #: evidence of a concept head for each token, log-odds less those of its base rate, [B,V] or [V]; None without one
    evidence: NDArray[np.float32] | None = None


def cells_of(state: Mapping[str, Any]) -> Any | None:
    """Return the tensor of a state that holds the grid's cells, [B,G,D] or [B,heads,G,d]; None if there is none.

    It is the first "memory.*" by name that has an axis of cells; its mean over them goes into the overview.
    """
    names = sorted(name for name, value in state.items() if name.startswith("memory.") and value.ndim > 2)
    return state[names[0]] if names else None


class Stepper(Protocol):
    """The decoder interface of the search, for any decoder that predicts the next token.

    The search never looks into a state, so a cache may grow from step to step, and a prompt's tokens may be in it from
    the start. What `step` returns is kept until the search ends; do not overwrite it.
    """

    # Where hypotheses take much memory, `max_hypotheses: int` also says how many of them may be there at once.
    #: whether `begin` takes images as bytes [B,H,W,4] (data.images.preprocess_bytes) instead of floats [B,3,H,W]
    takes_bytes: bool
    #: what the decoder can do: of `Capability`, "attention", "constraints" and "prompt"
    capabilities: frozenset[Capability]

    def begin(self, images: NDArray[Any]) -> State:
        """Encode a batch of images, once for all beams."""

    def keep(self, state: State, rows: NDArray[np.int64]) -> State:
        """Return the state reduced to the images `rows` [n], in rising order, so that finished images are dropped."""

    def overview(self, state: State) -> Overview | None:
        """Return what a caption's confidence may use of a state from `begin`; None without any."""

    def step(
        self, tokens: NDArray[np.int64], parents: NDArray[np.int64], state: State, top_k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], State]:
        """Feed each hypothesis its newest token, tokens [B,K], and rank the possible next tokens.

        `parents` [B,K] gives the beam of the previous step that each hypothesis continues, so that caches are
        reordered. The first step has K=1, the first start token, and zeros as parents. Returns log-probabilities
        [B,K,T] in falling order and their token ids [B,K,T], T = min(top_k, vocabulary size); the attention [B,K,G]
        that produced them, G=0 without "attention"; and the next state.
        """


class Begun(NamedTuple):
    """A batch of encoded images."""

    state: State  # as the stepper's `begin` returned it
    images: Any  # [B,...], what was encoded; sampling draws its random numbers by the values


class SearchRequest(NamedTuple):
    """The arguments of a search."""

    stepper: Stepper
    begun: Begun
    decoding: Decoding
    constraints: Constraints
    special: SpecialTokens


class BeamState:
    """The images still being decoded, and the log-probability of each hypothesis. Arrays have one row per image."""

    def __init__(
        self,
        stepper: Stepper,
        begun: Begun,
        start_ids: tuple[int, ...],
        prefix: tuple[int, ...],
        banned: frozenset[int],
        *,
        remember: bool,
    ) -> None:
        """Feed the start tokens and the `prefix`, so that the single hypothesis of each image can be continued.

        The tokens of the prefix belong to the hypothesis, the start tokens do not. `remember` says whether `said` is
        kept.
        """
        self._stepper, self._remember = stepper, remember
        batch = len(begun.images)
        self.images = np.arange(batch)  # [B]
        self.log_probs = np.zeros((batch, 1))  # [B,K]; -inf for padding and for finished images
        self.tokens = np.full((batch, 1), start_ids[0], np.int64)  # [B,K]
        self.parents = np.zeros((batch, 1), np.int64)  # [B,K]
        self.said = np.empty((batch, 1, 0), np.int64)  # the words of each hypothesis, [B,K,L]; kept only if `remember`
        self.steps: list[Step] = []
        self._state = begun.state
        for token in start_ids[1:]:
            self.step(1)
            self.tokens = np.full_like(self.tokens, token)
        start = np.zeros((batch, 1), np.int64)
        for token in prefix:
            log_probs, ids, attention = self.step(WHOLE)
            possible = (ids == token) & (log_probs > -np.inf) & (token not in banned)  # [B,1,V]; false for NaN
            said = np.where(possible, log_probs, -np.inf).max(2)  # [B,1]
            self.advance(np.full_like(start, token), start, self.log_probs + said, said, attention)

    def step(self, top_k: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Rank the next tokens of each hypothesis: log-probabilities and ids [B,K,T], attention [B,K,G]."""
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
        """Append `tokens` [B,K] to the hypotheses `parents` [B,K]; `log_probs` are the totals."""
        self.tokens, self.parents, self.log_probs = tokens, parents, log_probs
        if self._remember:
            said = self.said[np.arange(len(tokens))[:, None], parents]
            self.said = np.concatenate([said, tokens[:, :, None]], axis=2)  # [B,K,L+1]
        self.steps.append(Step(self.images, tokens, parents, token_log_probs, attention))

    def drop_done(self) -> NDArray[np.int64] | None:
        """Drop the images without a live hypothesis; return the rows that stay, or None if all do."""
        if len(self.images) == 1:
            return None
        open_rows = np.nonzero(self.log_probs.max(axis=1) > -np.inf)[0]
        if len(open_rows) in (0, len(self.images)):
            return None
        self._state = self._stepper.keep(self._state, open_rows)
        for name in ("images", "log_probs", "tokens", "parents", "said"):
            setattr(self, name, getattr(self, name)[open_rows])
        return open_rows

    @property
    def over(self) -> bool:
        """Return whether no hypothesis is live."""
        return not (self.log_probs > -np.inf).any()
