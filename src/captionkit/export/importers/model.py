"""A captioner of transformers with the interface of `captionkit.models.captioning_model`: encode, begin, step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from captionkit.export.importers.decoding import Cache, ImportedDecoder, Layer


@dataclass(frozen=True)
class Cells:
    """Where the cells of the attention map lie among the tokens that the decoder attends to."""

    rows: int
    columns: int
    #: tokens before the first cell, such as a class token
    first: int


class ImportedModel(nn.Module):
    """An encoder that yields the decoder's memory, and the decoder. Runs and exports like a `CaptioningModel`.

    `encoder` maps images [B,3,H,W] to the tokens that the decoder attends to, or that stand before the words, [B,M,D].
    """

    def __init__(
        self, encoder: nn.Module, decoder: ImportedDecoder, cells: Cells | None, *, start: int = 0, causal: bool = False
    ) -> None:
        """`start` is the position of the first word; a prefix whose tokens see only those before them is `causal`.

        Without `cells` there is no attention map.
        """
        super().__init__()
        self.encoder, self.decoder, self.cells = encoder, decoder, cells
        self.start, self.causal = start, causal

    def encode(self, images: Tensor) -> Tensor:
        """Compute the memory of `images` [B,3,H,W] -> [B,M,D]."""
        return self.encoder(images)

    def begin(self, memory: Tensor) -> dict[str, Tensor]:
        """Return each layer's keys and values of the image, and empty word caches; see `Decoder.begin`."""
        state: dict[str, Tensor] = {}
        for index, (keys, values) in enumerate(self._images(memory)):
            state |= {f"memory.keys.{index}": keys, f"memory.values.{index}": values}
        for index, layer in enumerate(self.decoder.layers):
            heads, width = _head(layer)
            for part in ("keys", "values"):
                empty = memory.new_zeros(memory.shape[0], 1, heads, 0, width)  # [B,1,h,0,d]
                state[f"state.{part}.{index}"] = empty
        return state

    def _images(self, memory: Tensor) -> list[Cache]:
        """Return each layer's keys and values of the image, from `memory` [B,M,D]."""
        if all(layer.image is not None for layer in self.decoder.layers):
            return [layer.image.remember(memory) for layer in self.decoder.layers]
        made = []
        for layer in self.decoder.layers:
            memory, cache = layer.prefix(memory, causal=self.causal)
            made.append(cache)
        return made

    def step(
        self, tokens: Tensor, parents: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Decode one word; see `Decoder.step`.

        The attention [B,K,C] is that to the cells, scaled to sum to 1; C is 0 without cells.
        """
        many = range(len(self.decoder.layers))
        words, images = (
            [Cache(state[f"{kind}.keys.{index}"], state[f"{kind}.values.{index}"]) for index in many]
            for kind in ("state", "memory")
        )
        logits, weights, grown = self.decoder(tokens, parents, words, images, start=self.start)
        changed = {
            f"state.{part}.{index}": value
            for index, cache in enumerate(grown)
            for part, value in zip(("keys", "values"), cache, strict=True)
        }
        return logits, self._map(weights), changed

    def _map(self, weights: Tensor) -> Tensor:
        """Return the attention map of the attention to all tokens: `weights` [B,K,M] -> [B,K,C]."""
        if self.cells is None:
            return weights[..., :0]
        seen = weights[..., self.cells.first : self.cells.first + self.cells.rows * self.cells.columns]
        return seen / seen.sum(-1, keepdim=True)


def _head(layer: Layer) -> tuple[int, int]:
    """Return the number of attention heads and the width of each."""
    words = layer.words
    return words.heads, words.project.out_features // (3 * words.heads)
