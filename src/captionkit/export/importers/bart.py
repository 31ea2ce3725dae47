"""Decoders built like BART: BART (Florence-2's too), mBART and TrOCR, with cross-attention, and OPT without."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from captionkit.export.importers.decoding import CrossAttention, ImportedDecoder, Layer, SelfAttention, joined


class BartDecoder(ImportedDecoder):
    """Post-norm (BART, TrOCR) or pre-norm (mBART, OPT) layers; word embeddings may be scaled, normed or projected."""

    places: Tensor

    def __init__(self, body: Any, head: nn.Module, *, norm_first: bool) -> None:
        """`body` is transformers' decoder, `head` its language model head."""
        table = body.embed_positions
        learned = isinstance(table, nn.Embedding)  # TrOCR's may be sinusoidal
        places, offset = (table.weight, table.offset) if learned else (table.weights, table.padding_idx + 1)
        super().__init__([_layer(layer, norm_first) for layer in body.layers], len(places) - offset)
        self.words, self.head, self.offset = body.embed_tokens, head, offset
        self.register_buffer("places", places.detach(), persistent=False)  # [positions,W]
        self.norm_words = getattr(body, "layernorm_embedding", None) or nn.Identity()
        self.widen = getattr(body, "project_in", None) or nn.Identity()
        self.narrow = getattr(body, "project_out", None) or nn.Identity()
        self.norm = getattr(body, "layer_norm", None) or getattr(body, "final_layer_norm", None) or nn.Identity()

    def embed(self, tokens: Tensor, place: Tensor) -> Tensor:
        """See `ImportedDecoder.embed`."""
        return self.begin(self.words(tokens), place)

    def begin(self, words: Tensor, places: Tensor) -> Tensor:
        """Add position embeddings to embedded `words` [B,L,E] at `places` [L] or [1] -> [B,L,W]."""
        return self.norm_words(self.widen(words) + self.places[places + self.offset])  # [B,L,E] -> [B,L,W]

    def logits(self, x: Tensor) -> Tensor:
        """See `ImportedDecoder.logits`."""
        return self.head(self.narrow(self.norm(x)))


def _layer(layer: Any, norm_first: bool) -> Layer:
    own, cross = layer.self_attn, getattr(layer, "encoder_attn", None)
    words = SelfAttention(joined(own.q_proj, own.k_proj, own.v_proj), own.out_proj, own.num_heads, own.scaling)
    inner = nn.Sequential(layer.fc1, layer.activation_fn, layer.fc2)
    norms = [layer.self_attn_layer_norm, layer.final_layer_norm]
    if cross is None:
        return Layer(words, None, inner, norms, norm_first=norm_first)
    image = CrossAttention(
        cross.q_proj, joined(cross.k_proj, cross.v_proj), cross.out_proj, cross.num_heads, cross.scaling
    )
    return Layer(words, image, inner, [norms[0], layer.encoder_attn_layer_norm, norms[1]], norm_first=norm_first)
