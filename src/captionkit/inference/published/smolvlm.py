"""SmolVLM and Idefics3 (Marafioti et al. 2025, arXiv 2504.05299): a language model that is asked about an image.

The features of the image's tiles stand in the prompt in place of its image tokens, and the decoder goes on from there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from captionkit.errors import ModelError
from captionkit.inference.published.decoder import TYPES, CachedDecoder, DecoderState
from captionkit.inference.published.graphs import Graphs
from captionkit.inference.published.stepper import PublishedStepper, TokenEmbeddings
from captionkit.inference.search import Overview

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captionkit.inference.published.folder import PublishedFolder
    from captionkit.inference.published.tiles import TileProcessor
    from captionkit.inference.search import Capability

#: tiles that the vision encoder sees at a time; its memory grows with them
_TILES = 4
#: that the caches of all hypotheses may take together
_CACHE_BYTES = 1 << 30


class Group(NamedTuple):
    """Images of a batch that go through the decoder together, because their prompts have the same length.

    So no prompt is padded, which not every published graph allows.
    """

    rows: NDArray[np.int64]  # [n], rising: which images of the batch
    state: DecoderState


class ChatState(NamedTuple):
    """The state of a batch of B images."""

    groups: tuple[Group, ...]
    means: NDArray[np.float32]  # [B,D]: the mean of each image's features


class SmolVlmStepper:
    """The Stepper protocol over vision_encoder.onnx, embed_tokens.onnx and the decoder."""

    takes_bytes = False
    capabilities: frozenset[Capability] = frozenset(("constraints", "prompt"))

    def __init__(self, folder: PublishedFolder, graphs: Graphs, tiles: TileProcessor) -> None:
        self._vision, self._embed = graphs.open("vision_encoder"), TokenEmbeddings(graphs)
        first, later = graphs.decoder()
        self._decoder = CachedDecoder(first, later, **folder.heads, embed=self._embed)
        self._group = PublishedStepper(folder, self._decoder)
        self._tiles, self._chat, self._path = tiles, folder.chat, folder.path
        each = self._decoder.bytes_per_token * (folder.longest_prompt + folder.decoding.max_length)
        #: how many hypotheses may be in memory at once
        self.max_hypotheses = max(1, _CACHE_BYTES // max(each, 1))
        self._vision_inputs = {entry.name: TYPES.get(entry.type, np.bool_) for entry in self._vision.get_inputs()}

    def begin(self, images: NDArray[Any]) -> ChatState:
        """Read the prompts about images [B], each uint8 [H,W,3] of whole tiles, up to their last token."""
        by_length: dict[int, list[tuple[int, DecoderState]]] = defaultdict(list)
        means = []
        for row, image in enumerate(images):
            features = self._features(image)  # [S,D]
            means.append(features.mean(axis=0, dtype=np.float32))  # [S,D] -> [D]
            state = self._read(self._chat.ids(*self._tiles.grid(image)), features)
            by_length[state.length].append((row, state))
        groups = (_joined(*zip(*found, strict=True)) for found in by_length.values())
        return ChatState(tuple(groups), np.stack(means))  # [D] -> [B,D]

    def step(
        self, tokens: NDArray[np.int64], parents: NDArray[np.int64], state: ChatState, top_k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], ChatState]:
        """Decode one step, as `PublishedStepper.step`, group by group."""
        rows = np.concatenate([group.rows for group in state.groups])  # [B], in the order of the groups
        parts = [self._group.step(tokens[at], parents[at], part, top_k) for at, part in state.groups]
        order = np.argsort(rows)
        log_probs, ids, attention = (np.concatenate(found)[order] for found in list(zip(*parts, strict=True))[:3])
        groups = tuple(Group(at, part[3]) for (at, _), part in zip(state.groups, parts, strict=True))
        return log_probs, ids, attention, state._replace(groups=groups)

    def keep(self, state: ChatState, rows: NDArray[np.int64]) -> ChatState:
        """Return the state reduced to the images `rows` [n]."""
        groups = []
        for at, part in state.groups:
            stay = np.isin(at, rows)
            if stay.any():
                groups.append(Group(np.searchsorted(rows, at[stay]), self._group.keep(part, np.nonzero(stay)[0])))
        return ChatState(tuple(groups), state.means[rows])

    def overview(self, state: ChatState) -> Overview:
        """Return the mean of each image's features, [B,D]."""
        return Overview(state.means)

    def _features(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the features [S,D] of an image [H,W,3], tile by tile."""
        tiles = self._tiles.tiles(image)  # [N,3,side,side]
        found = [self._seen(tiles[start : start + _TILES]) for start in range(0, len(tiles), _TILES)]
        return np.concatenate(found)  # [s,D] -> [S,D]

    def _seen(self, tiles: NDArray[np.float32]) -> NDArray[Any]:
        """Return the features [s,D] of tiles [n,3,side,side], which fill their frames."""
        given = {"pixel_values": tiles[None], "pixel_attention_mask": np.ones_like(tiles[None, :, 0])}  # [1,n,...]
        inputs = {name: given[name].astype(kind, copy=False) for name, kind in self._vision_inputs.items()}
        (features,) = self._vision.run(None, inputs)[:1]
        return features.reshape(-1, features.shape[-1])  # [n,s/n,D] -> [s,D]

    def _read(self, prompt: Sequence[int], features: NDArray[Any]) -> DecoderState:
        """Return the decoder's state after a prompt without its last token, which the first step takes."""
        tokens = np.array([prompt[:-1]], np.int64)  # [1,L]
        places = tokens == self._chat.image_id
        if places.sum() != len(features):
            found = f"its prompt has {places.sum()} tokens for an image of {len(features)} features"
            raise ModelError(f"{self._path}: {found}; get the model again")
        embeddings = self._embed(tokens)  # [1,L,D]
        embeddings[places] = features
        return self._decoder.prefill(self._decoder.begin({}, 1), embeddings)


def _joined(rows: Sequence[int], states: Sequence[DecoderState]) -> Group:
    return Group(np.array(rows), CachedDecoder.join(states))
