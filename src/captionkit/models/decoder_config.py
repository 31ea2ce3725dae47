"""Sizes of the decoders: what a model folder stores of them, and what the [decoder] table of a recipe sets.

Apart from the networks, so that recipes and their flags need no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from captionkit.errors import ModelError


@dataclass(frozen=True)
class ShowTellConfig:
    """Sizes of Show and Tell's decoder."""

    name: str = "show-tell"
    #: width of the word embedding
    embedding: int = 512
    #: width of the LSTM
    hidden: int = 512
    #: dropout probability at the LSTM's inputs and before the output layer
    dropout: float = 0.3


@dataclass(frozen=True)
class ShowAttendTellConfig:
    """Sizes of the decoder of Show, Attend and Tell. Raises ValueError for another kind of attention."""

    name: str = "show-attend-tell"
    #: width of the word embedding
    embedding: int = 512
    #: width of the LSTM
    hidden: int = 512
    #: width of the attention's hidden layer
    attention: int = 256
    #: dropout probability at the embedding and before the output layer
    dropout: float = 0.3
    #: "soft" or "hard" attention
    kind: str = "soft"

    def __post_init__(self) -> None:
        if self.kind not in ("soft", "hard"):
            raise ValueError(f"kind = {self.kind!r}: use 'soft' or 'hard'")


#: named sizes of the transformer: width, layers and heads; "base" is that of Vaswani et al.
SIZES = {
    "tiny": {"width": 128, "layers": 2, "heads": 4},
    "small": {"width": 256, "layers": 3, "heads": 4},
    "base": {"width": 512, "layers": 6, "heads": 8},
}


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the transformer decoder. Raises ValueError for sizes that do not fit together."""

    name: str = "transformer"
    width: int = 256
    layers: int = 3
    #: attention heads; must divide the width
    heads: int = 4
    #: rows and columns of the grid in training; position embeddings are interpolated for other grids
    rows: int = 7
    columns: int = 7
    #: dropout probability at the embedding and on each residual branch
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.rows, self.columns) < 1:
            raise ValueError("width, layers, heads, rows and columns must be at least 1")
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width = {self.width}: must be even and a multiple of heads, which is {self.heads}")


#: every config has `name` and `dropout`; the other fields depend on the decoder
DecoderConfig = ShowTellConfig | ShowAttendTellConfig | TransformerConfig

#: the configs of the decoders, by the name in them
CONFIGS: dict[str, type[DecoderConfig]] = {
    config.name: config for config in (ShowTellConfig, ShowAttendTellConfig, TransformerConfig)
}


def decoder_config(values: Mapping[str, Any]) -> DecoderConfig:
    """Return the decoder config for a table of its name and fields.

    Raises ModelError for an unknown name, TypeError or ValueError for unknown or invalid fields.
    """
    name = values["name"]
    check_decoder(name)
    return CONFIGS[name](**values)


def check_decoder(name: str) -> None:
    """Raise ModelError if there is no decoder of that name."""
    if name not in CONFIGS:
        raise ModelError(f"decoder {name!r} is unknown; use {', '.join(sorted(CONFIGS))}")


def owners_of(field: str) -> tuple[str, ...]:
    """Return the names of the decoders whose configs have a field."""
    return tuple(name for name, config in CONFIGS.items() if field in {leaf.name for leaf in fields(config)})


def default_of(field: str) -> Any:
    """Return the default of a field in the first decoder's config that has it."""
    return getattr(CONFIGS[owners_of(field)[0]], field)
