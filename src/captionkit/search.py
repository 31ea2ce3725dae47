"""Greedy and beam search over any decoder that can make one step, batched over images, in numpy.

Sizes: B images, K beams, T ranked tokens a beam, G grid cells, N captions an image, L words in a caption.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from captionkit.errors import CaptionkitError, ModelError
from captionkit.tables import check_fields

State = Any  # whatever a Stepper carries from step to step; the search only hands it back

# The largest settings that are accepted: they bound what is kept for tracing, steps x B x K x G floats.
_RANGES = {
    "beam": (1, 1000),
    "num_captions": (1, 1000),
    "min_length": (0, 1000),
    "max_length": (1, 1000),
    "no_repeat": (0, 1000),
}
_MAX_LENGTH_PENALTY = 10

_RECORD = np.dtype([("log_prob", "f8"), ("score", "f8"), ("length", "i8"), ("beam", "i8"), ("finished", "?")])


class Stepper(Protocol):
    """A decoder as the search sees it. What `step` returns is kept until the search ends; do not overwrite it."""

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


@dataclass(frozen=True)
class Decoding:
    """How captions are searched for. `dataclasses.replace` overrides fields; a bad value raises CaptionkitError.

    beam: hypotheses kept alive at each step; 1 is greedy search.
    num_captions: captions wanted of an image, at most `beam`.
    length_penalty: score = log_prob / length**length_penalty, where length counts the words and the end token.
    min_length, max_length: words in a caption, the end token not counted.
    no_repeat: no run of this many words occurs twice in a caption, and no word follows itself; 0 lets all repeat.
    """

    beam: int = 3
    num_captions: int = 1
    length_penalty: float = 1.0
    min_length: int = 1
    max_length: int = 30
    no_repeat: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise CaptionkitError(f"{name} is {value!r}; use a whole number from {low} to {high}")
        penalty = self.length_penalty
        number = isinstance(penalty, (int, float)) and not isinstance(penalty, bool)
        # Below zero, the bound that stops the search would not hold.
        if not number or not 0 <= penalty <= _MAX_LENGTH_PENALTY:
            raise CaptionkitError(f"length_penalty is {penalty!r}; use a number from 0 to {_MAX_LENGTH_PENALTY}")
        if self.num_captions > self.beam:
            raise CaptionkitError(
                f"num_captions is {self.num_captions}, but must be <= beam, which is {self.beam}; raise beam"
            )
        if self.min_length > self.max_length:
            raise CaptionkitError(f"min_length is {self.min_length}, but must be <= max_length, {self.max_length}")

    def to_dict(self) -> dict[str, Any]:
        """The fields, as a model's config stores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decoding:
        """Read what `to_dict` wrote; missing fields take their defaults. ModelError names the field that is wrong."""
        check_fields(cls, values, "decoding")
        try:
            return cls(**values)
        except CaptionkitError as error:
            raise ModelError(f"decoding: {error}") from None


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One caption of an image, as token ids."""

    tokens: NDArray[np.int64]  # [L], without begin and end token
    log_prob: float  # of the whole sequence, its end token included if it has one
    score: float  # log_prob / length**length_penalty: what captions are ranked by
    token_log_probs: NDArray[np.float32]  # [L]
    attention: NDArray[np.float32]  # [L,G]; row t is what this caption's own ancestors attended to for tokens[t]
    finished: bool  # False: cut at max_length


class _Step(NamedTuple):
    """What one step leaves for tracing: the live hypotheses' newest tokens and whence they came."""

    tokens: NDArray[np.int64]  # [B,K]
    parents: NDArray[np.int64]  # [B,K], into the beams of the step before
    log_probs: NDArray[np.float32]  # [B,K]
    attention: NDArray[np.float32]  # [B,K of the step before,G]


def search(
    stepper: Stepper,
    images: NDArray[np.float32],
    decoding: Decoding,
    *,
    bos_id: int,
    eos_id: int,
    banned: Collection[int] = (),
) -> list[list[Hypothesis]]:
    """Caption images [B,3,H,W]; for each, its `num_captions` best hypotheses, all different, best first.

    At each step every live hypothesis is continued by every token that is not `banned` (nor the end token, before
    `min_length` words, nor one that `no_repeat` forbids it). Of these continuations, ranked by log-probability over all
    beams, the best 2K are looked at: those among the best K that end are finished, and the best K that do not end live
    on. At most K of the 2K end, so K are left to live. Greedy search (K=1) is over with its first end token.

    An image is done when its `num_captions`-th best finished hypothesis scores at least as well as any live one still
    could: log-probabilities only fall, so log_prob / (longest possible length)**length_penalty bounds the score. Live
    hypotheses of `max_length` words may still end; those that do not are cut. A caption cut in mid-sentence ranks after
    all finished ones, whatever its score, and so appears only where too few have finished.

    Tokens of probability zero (-inf, or NaN from a broken model) are never chosen. Where that leaves fewer than
    `num_captions` hypotheses, fewer are returned: none, if no caption is possible at all.
    """
    batch, beam, longest = len(images), decoding.beam, decoding.max_length + 1
    if not batch:
        return []
    rows = np.arange(batch)[:, None]
    # What lives on is among the K best words that its own beam allows, and what ends is among the K best of all that it
    # allows. In the beam's ranking only the excluded tokens can stand before them, so rank K + |excluded| is the last
    # that can matter, whether or not the end token is allowed: nothing is lost.
    excluded = {eos_id, *banned}
    top_k = beam + len(excluded)
    # Added to the log-probability of each id; the last entry, 0, serves every id beyond the excluded ones.
    mask = np.zeros(max(excluded) + 2)
    mask[list(excluded)] = -np.inf

    state = stepper.begin(images)
    tokens = np.full((batch, 1), bos_id, np.int64)
    parents = np.zeros((batch, 1), np.int64)
    live = np.zeros((batch, 1))  # log-probabilities; -inf: a beam that fills up the shape, or of an image that is done
    best = np.full((batch, decoding.num_captions), np.array((-np.inf, -np.inf, 0, 0, False), _RECORD))
    steps: list[_Step] = []
    said = np.empty((batch, 1, 0), np.int64)  # the words of each live hypothesis, [B,K,L]; kept only if needed
    for length in range(longest):  # words in each live hypothesis
        if length == decoding.min_length and eos_id not in banned:
            mask[eos_id] = 0
        repeats = _Repeats(said, decoding.no_repeat)
        log_probs, ids, attention, state = stepper.step(tokens, parents, state, top_k + repeats.most)
        log_probs = repeats.forbid(log_probs, ids)
        if ids[0].size < beam:
            log_probs, ids = _widen(log_probs, -np.inf, beam), _widen(ids, eos_id, beam)
        width = ids.shape[2]
        totals = (live[:, :, None] + log_probs + mask.take(ids, mode="clip")).reshape(batch, -1)  # [B,K*T]
        ids = ids.reshape(batch, -1)
        ends = ids == eos_id

        ranked = _descending(totals)[:, :beam]
        origin = ranked // width
        ended = np.where(ends, totals, -np.inf)[rows, ranked]  # [B,K]
        has_ended = ended > -np.inf
        if has_ended.any():
            new = _records(ended, length, origin, (length + 1) ** decoding.length_penalty, finished=True)
            best = np.concatenate([best, new], axis=1)
            best = best[rows, _descending(best["score"])[:, : decoding.num_captions]]
        if length == decoding.max_length:
            live[np.nonzero(has_ended)[0], origin[has_ended]] = -np.inf  # the rest are cut
            break

        words = np.where(ends, -np.inf, totals)
        chosen = _descending(words)[:, :beam]
        live, tokens, parents = words[rows, chosen], ids[rows, chosen], chosen // width
        if decoding.no_repeat:
            said = np.concatenate([said[rows, parents], tokens[:, :, None]], axis=2)  # [B,K,L+1]
        steps.append(_Step(tokens, parents, log_probs.reshape(batch, -1)[rows, chosen], attention))
        done = best["score"][:, -1] >= live.max(axis=1) / longest**decoding.length_penalty
        if beam == 1:
            done |= has_ended[:, 0]
        live[done] = -np.inf
        if done.all():
            break

    divisor = decoding.max_length**decoding.length_penalty
    cut = _records(live, decoding.max_length, np.arange(beam), divisor, finished=False)
    best = np.concatenate([best, cut], axis=1)
    possible = best["score"] > -np.inf
    order = np.argsort(~possible, axis=1, kind="stable")[:, : decoding.num_captions]
    return _trace(best[rows, order], steps)


class _Repeats:
    """The words with which each live hypothesis would say a run of `size` words again, or its last word twice."""

    def __init__(self, said: NDArray[np.int64], size: int) -> None:
        length = said.shape[2]
        self.words = said[:, :, -1:]  # [B,K,R]; in the first step, R is 0
        self.apply = np.ones(self.words.shape, bool)
        if 0 < size <= length:
            runs = sliding_window_view(said, size, axis=2)  # [B,K,L] -> [B,K,L-size+1,size]
            begun = said[:, :, None, length - size + 1 :]  # [B,K,1,size-1]: the run that the next word would complete
            self.apply = np.concatenate([self.apply, (runs[..., :-1] == begun).all(-1)], axis=2)
            self.words = np.concatenate([self.words, runs[..., -1]], axis=2)
        # So many more tokens must be ranked for the best of the others to be among them.
        self.most = int(self.apply.sum(2).max(initial=0))

    def forbid(self, log_probs: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """`log_probs` [B,K,T] of tokens `ids`, -inf where a token would repeat."""
        if not self.most:
            return log_probs
        again = ((ids[..., None] == self.words[:, :, None, :]) & self.apply[:, :, None, :]).any(-1)  # [B,K,T]
        return np.where(again, -np.inf, log_probs).astype(log_probs.dtype)


def _descending(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices that rank each row, best first; ties keep their order, NaN comes last."""
    return np.argsort(-values, axis=1, kind="stable")


def _widen(values: NDArray[Any], filler: float, width: int) -> NDArray[Any]:
    """Fill up [B,K,T] to [B,K,width], for a vocabulary with fewer tokens than there are beams."""
    return np.pad(values, [(0, 0), (0, 0), (0, width - values.shape[2])], constant_values=filler)


def _records(
    log_probs: NDArray[np.float64], length: int, beams: NDArray[np.int64], divisor: float, *, finished: bool
) -> NDArray[np.void]:
    """Hypotheses [B,K] of `length` words, with the beams where their last words are."""
    records = np.empty(log_probs.shape, _RECORD)
    records["score"] = log_probs / divisor
    records["log_prob"] = log_probs
    records["length"] = length
    records["beam"] = beams
    records["finished"] = finished
    return records


def _trace(winners: NDArray[np.void], steps: list[_Step]) -> list[list[Hypothesis]]:
    """Follow the parents of winners [B,N] back to the first step, all at once."""
    rows = np.arange(len(winners))[:, None]
    beams = winners["beam"]
    path = []
    for t, step in reversed(list(enumerate(steps))):
        parents = step.parents[rows, beams]
        path.append((step.tokens[rows, beams], step.log_probs[rows, beams], step.attention[rows, parents]))
        # A shorter winner waits at its last beam until its own last step is reached.
        beams = np.where(t < winners["length"], parents, beams)
    tokens, log_probs, attention = (np.stack(part[::-1], axis=2) for part in zip(*path, strict=True))  # [B,N,L(,G)]
    captions: list[list[Hypothesis]] = [[] for _ in winners]
    for b, n in zip(*np.nonzero(winners["score"] > -np.inf), strict=True):
        log_prob, score, length, _, finished = winners[b, n].item()
        # Copies, so that keeping one caption does not keep the whole batch in memory.
        words, word_log_probs, maps = (part[b, n, :length].copy() for part in (tokens, log_probs, attention))
        captions[b].append(Hypothesis(words, log_prob, score, word_log_probs, maps, finished))
    return captions
