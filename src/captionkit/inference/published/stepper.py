"""What the steppers of all families of published models share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from captionkit.errors import CaptionkitError
from captionkit.inference.published.decoder import CachedDecoder, DecoderState, ranked
from captionkit.inference.search import Overview

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captionkit.inference.published.folder import PublishedFolder
    from captionkit.inference.published.graphs import Graphs
    from captionkit.inference.search import Capability

#: the decoder's name for what the encoder gave
HIDDEN = "encoder_hidden_states"


class TokenEmbeddings:
    """embed_tokens.onnx: the embeddings [N,L,D] of tokens [N,L]."""

    def __init__(self, graphs: Graphs) -> None:
        self._session = graphs.open("embed_tokens")

    def __call__(self, tokens: NDArray[np.int64]) -> NDArray[Any]:
        (found,) = self._session.run(["inputs_embeds"], {"input_ids": tokens})
        return np.asarray(found)


class PublishedStepper:
    """The Stepper protocol over a `CachedDecoder`. A family adds `begin`."""

    takes_bytes = False
    capabilities: frozenset[Capability] = frozenset(("constraints",))

    def __init__(self, folder: PublishedFolder, decoder: CachedDecoder) -> None:
        self._decoder, self._positions = decoder, folder.positions
        self._end, self._other_ends = folder.generation.special.end, folder.generation.other_ends

    def step(
        self, tokens: NDArray[np.int64], parents: NDArray[np.int64], state: DecoderState, top_k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], DecoderState]:
        """Decode one step: `tokens`, `parents` [B,K] -> log-probs and ids [B,K,T], no attention [B,K,0], state.

        Raises CaptionkitError for a caption that is longer than the decoder has positions.
        """
        if self._positions is not None and state.length >= self._positions:
            raise CaptionkitError(f"the model's decoder has positions for {self._positions} tokens; lower max_length")
        logits, state = self._decoder.step(tokens, parents, state)
        log_probs, ids = ranked(logits, top_k, self._other_ends, self._end)
        shape = (*tokens.shape, -1)
        return log_probs.reshape(shape), ids.reshape(shape), np.empty((*tokens.shape, 0), np.float32), state

    def keep(self, state: DecoderState, rows: NDArray[np.int64]) -> DecoderState:
        """Return the state reduced to the images `rows` [n]."""
        return self._decoder.keep(state, rows)

    def overview(self, state: DecoderState) -> Overview | None:
        """Return the mean over what the encoder gave for each patch, [B,D]; None for a decoder without such memory."""
        hidden: NDArray[Any] | None = state.memory.get(HIDDEN)
        return None if hidden is None else Overview(hidden.mean(axis=1, dtype=np.float32))  # [B,S,D] -> [B,D]
