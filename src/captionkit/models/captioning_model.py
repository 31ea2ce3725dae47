"""The captioning model: an encoder, a neck that projects its grid to the decoder's width, and a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from captionkit.inference.search import CONCEPTS
from captionkit.models.concepts import ConceptHead, add_evidence
from captionkit.models.decoder import Decoded, Decoder, PackedCaptions, Padding
from captionkit.models.decoder_config import DecoderConfig, ShowAttendTellConfig, check_decoder
from captionkit.models.encoder import Encoder, EncoderConfig
from captionkit.models.encoder_registry import build_encoder
from captionkit.models.show_attend_tell import ShowAttendTell
from captionkit.models.show_tell import ShowTell
from captionkit.models.transformer_decoder import Transformer

#: the decoders by the name in their config; each is built from its config, the memory's width and the vocabulary size
DECODERS: dict[str, Callable[[Any, int, int], Decoder]] = {
    "show-tell": ShowTell,
    "show-attend-tell": ShowAttendTell,
    "transformer": Transformer,
}


@dataclass(frozen=True)
class ModelConfig:
    """The full architecture of a captioning model."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=ShowAttendTellConfig)
    #: width of the grid that the decoder attends to; 0 keeps the encoder's width, as in the paper
    memory: int = 512
    #: dropout probability of the encoder's features
    feature_dropout: float = 0.1
    #: width of the concept head's hidden layer; 0: no head
    concepts: int = 0
    #: weight of the concept head's evidence in the logits
    concept_weight: float = 0.0


class CaptioningModel(nn.Module):
    """Encoder, neck and decoder in one module.

    `encode` computes the memory once per image, `decode` runs teacher forcing, and `begin` and `step` generate word by
    word.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, *, encoder: Encoder | None = None) -> None:
        super().__init__()
        check_decoder(config.decoder.name)
        build = DECODERS[config.decoder.name]
        self.config = config
        self.encoder = build_encoder(config.encoder) if encoder is None else encoder
        self.neck = self._new_neck()
        self.decoder = build(config.decoder, self.memory_width, vocabulary)
        self.concepts: ConceptHead | None = None
        if config.concepts:
            self.add_concepts(config.concepts, vocabulary)

    @property
    def memory_width(self) -> int:
        """Width D of the memory."""
        return self.config.memory or self.encoder.dim

    def add_concepts(self, hidden: int, vocabulary: int) -> ConceptHead:
        """Give the model a new concept head with `hidden` units for `vocabulary` words, and return it."""
        self.config = replace(self.config, concepts=hidden)
        self.concepts = ConceptHead(self.memory_width, hidden, vocabulary, self.config.feature_dropout)
        return self.concepts

    def _new_neck(self) -> nn.Sequential:
        neck = nn.Sequential(nn.Dropout(self.config.feature_dropout))
        if self.config.memory:
            neck.extend([nn.Linear(self.encoder.dim, self.config.memory), nn.LayerNorm(self.config.memory)])
        return neck

    def set_dropout(self, decoder: float, features: float) -> None:
        """Change the dropout probabilities, of the decoder and of the encoder's features."""
        self.decoder.set_dropout(decoder)
        for module in (self.neck, self.concepts):
            for part in module.modules() if module is not None else ():
                if isinstance(part, nn.Dropout):
                    part.p = features
        sizes = replace(self.config.decoder, dropout=decoder)
        self.config = replace(self.config, decoder=sizes, feature_dropout=features)

    def replace_encoder(self, encoder: Encoder, config: EncoderConfig) -> None:
        """Replace the encoder by `encoder`, described by `config`, with a new neck; the decoder is kept.

        Requires a non-zero `memory` width.
        """
        self.encoder, self.config = encoder, replace(self.config, encoder=config)
        self.neck = self._new_neck()

    def features(self, images: Tensor) -> Tensor:
        """Compute the encoder's grid: `images` [B,3,H,W] -> [B,G,D']. With a frozen encoder it can be cached."""
        return self.encoder(images)

    def project(self, features: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Compute the memory [B,G,D] from the encoder's grid [B,G,D'] or the maps [B,H,W,C] of its frozen stages.

        `grid` gives the rows and columns, for decoders with position embeddings of cells; without it, those of the
        image size that the model was built for are assumed.
        """
        if features.ndim == 4:
            features = self.encoder.encode_trained(features)  # [B,H,W,C] -> [B,G,D']
        return self.decoder.add_position(self.neck(features), grid)

    def encode(self, images: Tensor) -> Tensor:
        """Compute the memory: `images` [B,3,H,W] -> memory [B,G,D]."""
        return self.project(self.features(images), self.encoder.grid(images.shape[2], images.shape[3]))

    def decode(self, memory: Tensor, captions: PackedCaptions) -> Decoded:
        """Run teacher forcing; see `Decoder.decode`."""
        decoded = self.decoder.decode(memory, captions)
        if self.concepts is None:
            return decoded
        evidence = self.concepts(memory)  # [B,V]
        logits = decoded.logits
        if weight := self.config.concept_weight:
            rows = captions.image_index[Padding(captions.sizes, logits.device).caption]  # [N] -> [P]
            # Detached: the head learns from which words are used, not from what helps the decoder.
            logits = add_evidence(logits, evidence.detach()[rows], weight)  # [B,V] -> [P,V]
        return decoded._replace(logits=logits, evidence=evidence)

    def begin(self, memory: Tensor) -> dict[str, Tensor]:
        """Return the initial decoding state; see `Decoder.begin`. A concept head's evidence is "memory.concepts"."""
        state = self.decoder.begin(memory)
        return state if self.concepts is None else {**state, CONCEPTS: self.concepts(memory)}

    def step(
        self, tokens: Tensor, parents: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Decode one more word; see `Decoder.step`."""
        logits, attention, changed = self.decoder.step(tokens, parents, state)
        if self.concepts is not None and self.config.concept_weight:
            logits = add_evidence(logits, state[CONCEPTS].unsqueeze(1), self.config.concept_weight)  # [B,V] -> [B,1,V]
        return logits, attention, changed

    def forward(
        self,
        images: Tensor | None,
        features: Tensor | None,
        captions: PackedCaptions,
        grid: tuple[int, int] | None = None,
    ) -> Decoded:
        """Run the training forward pass on captions and images, or on cached `features` of the frozen stages.

        `grid` gives the rows and columns of cached features.
        """
        return self.decode(self.encode_or_project(images, features, grid), captions)

    def encode_or_project(
        self, images: Tensor | None, features: Tensor | None, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the memory [B,G,D] of `images`, or of cached `features` of the frozen stages (with their `grid`)."""
        if features is not None:
            return self.project(features, grid)
        assert images is not None, "one of both is given"
        return self.encode(images)
