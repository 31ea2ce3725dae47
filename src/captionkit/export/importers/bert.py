"""Decoders built like BERT: those of BLIP and GIT, and BERT and RoBERTa with cross-attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from captionkit.export.importers.decoding import CrossAttention, ImportedDecoder, Layer, SelfAttention, joined


class BertDecoder(ImportedDecoder):
    """Post-norm layers over word and position embeddings, and a head."""

    def __init__(self, embeddings: Any, layers: Any, head: nn.Module, *, first: int = 0) -> None:
        """`embeddings`, `layers` and `head` are transformers' own; `first` is the position of the first token."""
        table = embeddings.position_embeddings
        super().__init__([_layer(layer) for layer in layers], table.num_embeddings - first)
        self.words, self.place, self.norm, self.head = embeddings.word_embeddings, table, embeddings.LayerNorm, head
        self.kinds = getattr(embeddings, "token_type_embeddings", None)
        self.first = first

    def embed(self, tokens: Tensor, place: Tensor) -> Tensor:
        """See `ImportedDecoder.embed`."""
        x = self.words(tokens) + self.place(place + self.first)  # [B,K] -> [B,K,W]
        return self.norm(x if self.kinds is None else x + self.kinds.weight[0])

    def logits(self, x: Tensor) -> Tensor:
        """See `ImportedDecoder.logits`."""
        return self.head(x)


def _layer(layer: Any) -> Layer:
    attention, cross = layer.attention, getattr(layer, "crossattention", None)
    inner = nn.Sequential(layer.intermediate.dense, layer.intermediate.intermediate_act_fn, layer.output.dense)
    own = attention.self
    words = SelfAttention(joined(own.query, own.key, own.value), attention.output.dense, *_heads(own))
    norms = [attention.output.LayerNorm, layer.output.LayerNorm]
    if cross is None:
        return Layer(words, None, inner, norms, norm_first=False)
    other = cross.self
    image = CrossAttention(other.query, joined(other.key, other.value), cross.output.dense, *_heads(other))
    return Layer(words, image, inner, [norms[0], cross.output.LayerNorm, norms[1]], norm_first=False)


def _heads(attention: Any) -> tuple[int, float]:
    return attention.num_attention_heads, attention.attention_head_size**-0.5
