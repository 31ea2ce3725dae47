"""The whole model: an encoder, a neck that brings its grid to the decoder's width, and a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from captionkit.errors import ModelError
from captionkit.models.encoder import EncoderConfig, build_encoder
from captionkit.models.show_attend_tell import Decoded, Packed, ShowAttendTell, ShowAttendTellConfig

#: decoder name -> its class; a decoder has `decode`, `begin` and `step` as ShowAttendTell has
DECODERS: dict[str, Callable[..., nn.Module]] = {"show-attend-tell": ShowAttendTell}


@dataclass(frozen=True)
class ModelConfig:
    """The architecture in full."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: ShowAttendTellConfig = field(default_factory=ShowAttendTellConfig)
    #: width of the grid that the decoder sees; 0 keeps the encoder's own, as in the paper
    memory: int = 512
    #: share of the encoder's features dropped while training
    feature_dropout: float = 0.1


class CaptioningModel(nn.Module):
    """Pictures to words. `encode` looks once, `decode` teaches, `begin` and `step` tell word by word."""

    def __init__(self, config: ModelConfig, vocabulary: int, *, encoder: nn.Module | None = None) -> None:
        super().__init__()
        if config.decoder.name not in DECODERS:
            raise ModelError(f"decoder {config.decoder.name!r} is unknown; use {', '.join(sorted(DECODERS))}")
        self.config = config
        self.encoder = build_encoder(config.encoder) if encoder is None else encoder
        width = config.memory or self.encoder.dim
        self.neck = nn.Sequential(nn.Dropout(config.feature_dropout))
        if config.memory:
            self.neck.extend([nn.Linear(self.encoder.dim, width), nn.LayerNorm(width)])
        self.decoder = DECODERS[config.decoder.name](config.decoder, width, vocabulary)

    def features(self, images: Tensor) -> Tensor:
        """`images` [B,3,H,W] -> the encoder's grid [B,G,D'], the part that a frozen encoder computes once."""
        return self.encoder(images)

    def remember(self, features: Tensor) -> Tensor:
        """The encoder's grid [B,G,D'] -> memory [B,G,D]."""
        return self.neck(features)

    def encode(self, images: Tensor) -> Tensor:
        """`images` [B,3,H,W] -> memory [B,G,D]."""
        return self.remember(self.features(images))

    def decode(self, memory: Tensor, captions: Packed) -> Decoded:
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

    def forward(self, images: Tensor | None, features: Tensor | None, captions: Packed) -> Decoded:
        """Training's entry: pictures, or the features that the frozen encoder made of them, and their captions."""
        memory = self.encode(images) if features is None else self.remember(features)
        return self.decode(memory, captions)
