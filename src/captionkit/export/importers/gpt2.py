"""GPT-2 and DistilGPT-2 with cross-attention, as in ViT-GPT2."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from captionkit.errors import ModelError
from captionkit.export.importers.decoding import CrossAttention, ImportedDecoder, Layer, SelfAttention, linear


class Gpt2Decoder(ImportedDecoder):
    """Pre-norm layers whose linear layers are stored transposed (transformers' Conv1D)."""

    def __init__(self, network: Any) -> None:
        """`network` is a GPT2LMHeadModel with cross-attention. Raises ModelError where it has none."""
        body = network.transformer
        if not body.config.add_cross_attention:
            raise ModelError("its GPT-2 has no cross-attention, so that captions cannot depend on the image")
        super().__init__([_layer(block) for block in body.h], body.wpe.num_embeddings)
        self.words, self.place, self.norm, self.head = body.wte, body.wpe, body.ln_f, network.lm_head

    def embed(self, tokens: Tensor, place: Tensor) -> Tensor:
        """See `ImportedDecoder.embed`."""
        return self.words(tokens) + self.place(place)  # [B,K] -> [B,K,W]

    def logits(self, x: Tensor) -> Tensor:
        """See `ImportedDecoder.logits`."""
        return self.head(self.norm(x))


def _layer(block: Any) -> Layer:
    own, cross, inner = block.attn, block.crossattention, block.mlp
    words = SelfAttention(_linear(own.c_attn), _linear(own.c_proj), own.num_heads, own.scaling)
    image = CrossAttention(
        _linear(cross.q_attn), _linear(cross.c_attn), _linear(cross.c_proj), cross.num_heads, cross.scaling
    )
    feed_forward = nn.Sequential(_linear(inner.c_fc), inner.act, _linear(inner.c_proj))
    return Layer(words, image, feed_forward, [block.ln_1, block.ln_cross_attn, block.ln_2], norm_first=True)


def _linear(transposed: Any) -> nn.Linear:
    return linear(transposed.weight.T, transposed.bias)  # [I,O] -> [O,I]
