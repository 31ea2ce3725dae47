"""The whole model: an encoder, a neck that brings its grid to the decoder's width, and a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from captionkit.errors import ModelError
from captionkit.models.decoder import Decoded, Decoder, PackedCaptions
from captionkit.models.encoder import Encoder, EncoderConfig
from captionkit.models.encoders import build_encoder
from captionkit.models.show_attend_tell import ShowAttendTell, ShowAttendTellConfig
from captionkit.models.show_tell import ShowTell, ShowTellConfig
from captionkit.models.transformer import Transformer, TransformerConfig

#: every config has a name and a dropout; the rest is the decoder's own
DecoderConfig = ShowTellConfig | ShowAttendTellConfig | TransformerConfig


class DecoderSpec(NamedTuple):
    """How to make a decoder: the class of its config, and it itself from config, width of the memory and vocabulary."""

    config: type[DecoderConfig]
    build: Callable[[Any, int, int], Decoder]


#: the decoders, by the name in their config
DECODERS = {
    "show-tell": DecoderSpec(ShowTellConfig, ShowTell),
    "show-attend-tell": DecoderSpec(ShowAttendTellConfig, ShowAttendTell),
    "transformer": DecoderSpec(TransformerConfig, Transformer),
}


def decoder_config(values: Mapping[str, Any]) -> DecoderConfig:
    """The config that a table describes by its name and fields.

    Raises ModelError for an unknown name, TypeError or ValueError for fields that do not belong there.
    """
    return _known(values["name"]).config(**values)


def _known(name: str) -> DecoderSpec:
    if name not in DECODERS:
        raise ModelError(f"decoder {name!r} is unknown; use {', '.join(sorted(DECODERS))}")
    return DECODERS[name]


@dataclass(frozen=True)
class ModelConfig:
    """The architecture in full."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=ShowAttendTellConfig)
    #: width of the grid that the decoder sees; 0 keeps the encoder's own, as in the paper
    memory: int = 512
    #: share of the encoder's features dropped while training
    feature_dropout: float = 0.1


class CaptioningModel(nn.Module):
    """Images to words. `encode` looks once, `decode` teaches, `begin` and `step` tell word by word."""

    def __init__(self, config: ModelConfig, vocabulary: int, *, encoder: nn.Module | None = None) -> None:
        super().__init__()
        build = _known(config.decoder.name).build
        self.config = config
        self.encoder = build_encoder(config.encoder) if encoder is None else encoder
        self.neck = self._new_neck()
        self.decoder = build(config.decoder, config.memory or self.encoder.dim, vocabulary)

    def _new_neck(self) -> nn.Sequential:
        neck = nn.Sequential(nn.Dropout(self.config.feature_dropout))
        if self.config.memory:
            neck.extend([nn.Linear(self.encoder.dim, self.config.memory), nn.LayerNorm(self.config.memory)])
        return neck

    def replace_encoder(self, encoder: Encoder, config: EncoderConfig) -> None:
        """Take another encoder, described by `config`, and a new neck; the decoder stays. Needs a `memory` width."""
        self.encoder, self.config = encoder, replace(self.config, encoder=config)
        self.neck = self._new_neck()

    def features(self, images: Tensor) -> Tensor:
        """`images` [B,3,H,W] -> the encoder's grid [B,G,D'], the part that a frozen encoder computes once."""
        return self.encoder(images)

    def remember(self, features: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """The encoder's grid [B,G,D'], or the maps [B,H,W,C] of its frozen stages, -> memory [B,G,D].

        `grid` is its rows and columns, which a decoder that tells cells apart by their place wants to know; without
        it, they are those of the images that the model was made for.
        """
        if features.ndim == 4:
            features = self.encoder.encode_trained(features)  # [B,H,W,C] -> [B,G,D']
        return self.decoder.place(self.neck(features), grid)

    def encode(self, images: Tensor) -> Tensor:
        """`images` [B,3,H,W] -> memory [B,G,D]."""
        return self.remember(self.features(images), self.encoder.grid(images.shape[2], images.shape[3]))

    def decode(self, memory: Tensor, captions: PackedCaptions) -> Decoded:
        """Teacher forcing; see the decoder."""
        return self.decoder.decode(memory, captions)

    def begin(self, memory: Tensor) -> dict[str, Tensor]:
        """State to decode from; see the decoder."""
        return self.decoder.begin(memory)

    def step(
        self, tokens: Tensor, parents: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One word further; see the decoder."""
        return self.decoder.step(tokens, parents, state)

    def forward(
        self,
        images: Tensor | None,
        features: Tensor | None,
        captions: PackedCaptions,
        grid: tuple[int, int] | None = None,
    ) -> Decoded:
        """Training's entry: images, or what the encoder's frozen stages made of them (for a `grid`); captions."""
        return self.decode(self.seen(images, features, grid), captions)

    def seen(self, images: Tensor | None, features: Tensor | None, grid: tuple[int, int] | None = None) -> Tensor:
        """Memory [B,G,D] of images, or of what the encoder's frozen stages made of them (for a `grid`)."""
        return self.encode(images) if features is None else self.remember(features, grid)
