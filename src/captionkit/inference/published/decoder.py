"""The decoder of a published model: ONNX graphs with a cache that grows by a token at each step.

The layouts are those of Hugging Face's exporters: one graph for all steps ("merged", with or without a switch for the
cache), or a pair, of which the first takes no cache and the second does. Their inputs are recognized by name:

    input_ids [N,1] or inputs_embeds [N,1,D]; encoder_hidden_states [N,S,D], encoder_attention_mask [N,S];
    attention_mask [N,L], position_ids [N,1]; use_cache_branch [1]; past_key_values.{i}[.decoder|.encoder].{key,value}

They give logits [N,1,V] and the caches under "present". N = B*K: each hypothesis is a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from captionkit.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime as ort
    from numpy.typing import NDArray

Arrays = dict[str, Any]

_PAST = "past_key_values."
#: caches of what the encoder gave, which are the same at each step
_MEMORY = re.compile(r"\.encoder\.(key|value)$")
#: types of floating-point tensors
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class DecoderState(NamedTuple):
    """What a decoder needs of a batch of images, B of them with K hypotheses each."""

    memory: Arrays  # [B,...]: the encoder's outputs and their caches
    caches: Arrays  # [B,K,heads,L,d] by input name
    length: int  # L, tokens in the caches


class CachedDecoder:
    """Runs a decoder's graphs for batches of hypotheses."""

    def __init__(
        self,
        first: ort.InferenceSession,
        later: ort.InferenceSession | None,
        *,
        heads: int,
        size: int,
        embed: Callable[[NDArray[np.int64]], NDArray[Any]] | None = None,
    ) -> None:
        """`first` takes the first step, `later` the others; None: `first` takes all of them.

        `heads` and `size` of a head [d] are used where the graphs do not tell. `embed` maps token ids to what a graph
        takes as "inputs_embeds".
        """
        self._first, self._later, self._embed = first, later or first, embed
        self._inputs = {
            session: {entry.name: entry for entry in session.get_inputs()} for session in (first, later or first)
        }
        self._outputs = {
            session: [entry.name for entry in session.get_outputs()] for session in (first, later or first)
        }
        pasts = [entry for name, entry in self._inputs[self._later].items() if name.startswith(_PAST)]
        if not pasts:
            raise ModelError("its decoder takes no cache, so each word would cost as much as all before it")
        self._empty = {entry.name: _empty(entry, heads, size) for entry in pasts}
        float_input = next((e for e in self._inputs[first].values() if e.type in TYPES), None)
        #: the type of the graph's floating-point inputs
        self.dtype = TYPES[float_input.type] if float_input else np.float32

    def begin(self, memory: Arrays, images: int) -> DecoderState:
        """Return the state of `images` images before the first token, with the encoder's outputs `memory` [B,...]."""
        caches = {
            name: np.broadcast_to(empty[None], (images, 1, *empty.shape))
            for name, empty in self._empty.items()
            if not _MEMORY.search(name)
        }
        return DecoderState(memory, caches, 0)

    def prefill(self, state: DecoderState, embeddings: NDArray[Any]) -> DecoderState:
        """Return the state after a prompt's `embeddings` [B,L,D]."""
        many, length, _ = embeddings.shape
        given = {"inputs_embeds": embeddings, "position_ids": np.tile(np.arange(length), (many, 1))}
        return self._run(state, given, many, 1, np.zeros((many, 1), np.int64))[1]

    def step(
        self, tokens: NDArray[np.int64], parents: NDArray[np.int64], state: DecoderState
    ) -> tuple[NDArray[np.float32], DecoderState]:
        """Feed `tokens` [B,K] to the hypotheses `parents` [B,K] and return the logits [B*K,V] and the next state."""
        rows = tokens.reshape(-1, 1)  # [B,K] -> [N,1]
        given: Arrays = {"input_ids": rows, "position_ids": np.full_like(rows, state.length)}
        if self._embed:
            given["inputs_embeds"] = self._embed(rows)
        images, beams = tokens.shape
        return self._run(state, given, images, beams, parents)

    def _run(
        self, state: DecoderState, given: Arrays, images: int, beams: int, parents: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], DecoderState]:
        session = self._later if state.length else self._first
        wanted, names = self._inputs[session], self._outputs[session]
        new = next(value.shape[1] for name, value in given.items() if name in wanted)
        given = {
            **given,
            **_repeated(state.memory, beams),
            "attention_mask": np.ones((images * beams, state.length + new), np.int64),
            "use_cache_branch": np.array([state.length > 0]),
            "num_logits_to_keep": np.array(1),  # the others of a prompt are not asked for
        }
        for name in wanted:
            if name in state.caches:
                given[name] = _gathered(state.caches[name], parents)
            elif name.startswith(_PAST) and name not in given:  # the encoder's caches before the first step
                empty = self._empty[name]
                given[name] = np.zeros((images * beams, *empty.shape), empty.dtype)
        found = dict(zip(names, session.run(names, {name: given[name] for name in wanted}), strict=True))
        caches, memory = dict(state.caches), dict(state.memory)
        for name in self._empty:
            present = found.get(name.replace(_PAST, "present.", 1))
            if present is None:
                continue
            if not _MEMORY.search(name):
                caches[name] = present.reshape(images, beams, *present.shape[1:])  # [N,h,L,d] -> [B,K,h,L,d]
            elif not state.length:  # later steps give none, or an empty one
                memory[name] = present.reshape(images, beams, *present.shape[1:])[:, 0]  # all beams have the same
        logits = found["logits"][:, -1].astype(np.float32, copy=False)  # [N,new,V] -> [N,V]
        return logits, DecoderState(memory, caches, state.length + new)

    @property
    def bytes_per_token(self) -> int:
        """Return how much the caches of a hypothesis grow with a token."""
        grow = (empty for name, empty in self._empty.items() if not _MEMORY.search(name))
        return sum(heads * size * empty.itemsize for empty in grow for heads, _, size in (empty.shape,))

    @staticmethod
    def join(states: Sequence[DecoderState]) -> DecoderState:
        """Return the state of all images of `states`, whose caches have the same length."""
        if len(states) == 1:
            return states[0]
        memories, caches, lengths = zip(*states, strict=True)
        memory, cache = ({n: np.concatenate([p[n] for p in parts]) for n in parts[0]} for parts in (memories, caches))
        return DecoderState(memory, cache, lengths[0])

    @staticmethod
    def keep(state: DecoderState, rows: NDArray[np.int64]) -> DecoderState:
        """Return the state reduced to the images `rows` [n]."""
        memory, caches = ({name: value[rows] for name, value in part.items()} for part in state[:2])
        return DecoderState(memory, caches, state.length)


def ranked(
    logits: NDArray[np.float32], top_k: int, ends: frozenset[int], end: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the log-probabilities of `logits` [N,V] in falling order and their token ids, [N,T] each.

    Tokens of `ends` are given as `end`, so that a search knows one end token.
    """
    peak = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - peak).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32) + peak
    count = min(top_k, logits.shape[-1])
    if count < logits.shape[-1]:
        ids = np.sort(np.argpartition(-logits, count - 1, axis=-1)[:, :count], axis=-1)  # [N,T], ties by id
    else:
        ids = np.broadcast_to(np.arange(count), logits.shape)
    values = np.take_along_axis(logits, ids, axis=-1) - total
    order = np.argsort(-values, axis=-1, kind="stable")
    ids, values = np.take_along_axis(ids, order, axis=-1), np.take_along_axis(values, order, axis=-1)
    if ends:
        ids = np.where(np.isin(ids, list(ends)), end, ids)
    return values, ids.astype(np.int64, copy=False)


def _empty(entry: Any, heads: int, size: int) -> NDArray[Any]:
    """Return an empty cache [heads,0,d] for a graph's input [N,heads,L,d]."""
    _, known_heads, _, known_size = entry.shape
    shape = (known_heads if isinstance(known_heads, int) else heads, 0)
    return np.zeros((*shape, known_size if isinstance(known_size, int) else size), TYPES.get(entry.type, np.float32))


def _gathered(cache: NDArray[Any], parents: NDArray[np.int64]) -> NDArray[Any]:
    """Return the caches [N,...] that hypotheses `parents` [B,K] of the step before, [B,K',...], left."""
    if cache.shape[1] == parents.shape[1] and (parents == np.arange(parents.shape[1])).all():  # no copy is needed
        return cache.reshape(parents.size, *cache.shape[2:])
    images = np.arange(len(parents))[:, None]
    chosen = cache[images, parents]  # [B,K,...]
    return chosen.reshape(parents.size, *cache.shape[2:])


def _repeated(memory: Mapping[str, Any], beams: int) -> Arrays:
    """Return tensors [B,...] once for each hypothesis, [B*K,...]."""
    return {name: value if beams == 1 else np.repeat(value, beams, axis=0) for name, value in memory.items()}
