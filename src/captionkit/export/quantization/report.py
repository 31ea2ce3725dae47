"""What `captionkit export --int8` tells: what is in 8 bits, and what each step cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from captionkit.inference.model_folder import ENCODER

_HEADING = "\n## In 8 bits\n"


def card_with(card: bytes, report: Int8Report) -> bytes:
    """A model's card with this report at its end."""
    said = f"{_HEADING}\nThe graphs here were made by `captionkit export --int8`:\n\n```\n{report}\n```\n"
    return card_without(card) + said.encode()


def card_without(card: bytes) -> bytes:
    """A model's card without such a report."""
    return card.partition(_HEADING.encode())[0]


@dataclass(frozen=True)
class Part:
    """One of the two graphs in 8 bits.

    units: its convolutions and matrix products; spared: those that stayed in 32 bits. nats: what a word of the float
    model's own captions loses; feature_error: relative, root mean square, of what the decoder is given.
    """

    name: str
    units: int
    spared: tuple[str, ...]
    nats: float
    feature_error: float
    bytes: int
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        kept = f"{self.units - len(self.spared)} of {self.units} convolutions and matrix products in 8 bits"
        error = f", features {self.feature_error:.1%} off" if self.name == ENCODER else ""
        return f"{self.name}: {kept}; {self.nats:.5f} nats per word lost{error}"


@dataclass(frozen=True)
class Step:
    """The captioner after a step: how it scores, against float32, and how fast it is.

    cider, loss, low and high (the 95 % interval of the loss, paired bootstrap; shares of float32's score) are None
    where nothing was scored; same is the share of captions that are float32's. Milliseconds an image are medians of
    images one at a time, float32 measured in turn with them.
    """

    name: str
    megabytes: float
    encode_ms: float
    decode_ms: float
    same: float
    cider: float | None = None
    loss: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """The step as a row of the table."""
        score = "" if self.cider is None else f"{self.cider:.4f}"
        loss = (
            "" if self.loss is None or self.low is None else f"{self.loss:+.2%} ({self.low:+.2%} to {self.high:+.2%})"
        )
        ms = (f"{self.encode_ms:.1f}", f"{self.decode_ms:.1f}")
        return (self.name, score, loss, f"{self.same:.1%}", f"{self.megabytes:.2f}", *ms)


_HEAD = ("", "CIDEr-D", "loss (95 % interval)", "same captions", "MB", "encode ms", "decode ms")


@dataclass(frozen=True)
class Int8Report:
    """What was calibrated on what, the two graphs, and the steps from float32 to both in 8 bits."""

    calibration: str
    parts: tuple[Part, ...]
    steps: tuple[Step, ...]
    judged: str

    @property
    def loss(self) -> float:
        """The share of CIDEr-D that is lost in the end; 0 where nothing was scored."""
        return self.steps[-1].loss or 0.0

    def to_dict(self) -> dict[str, object]:
        """What the folder's config keeps."""
        parts = {
            part.name: {"units": part.units, "spared": list(part.spared), "nats_per_word": part.nats}
            for part in self.parts
        }
        parts[ENCODER]["feature_error"] = self.parts[0].feature_error
        steps = [{name: value for name, value in vars(step).items() if value is not None} for step in self.steps]
        return {"calibration": self.calibration, "judged": self.judged, "graphs": parts, "steps": steps}

    def __str__(self) -> str:
        rows = [_HEAD, *(step.cells for step in self.steps)]
        columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
        widths = [max(map(len, column)) for column in columns]
        table = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in zip(*columns, strict=True)
        ]
        lines = [f"calibrated on {self.calibration}", *map(str, self.parts), f"compared on {self.judged}", *table]
        return "\n".join(line.rstrip() for line in lines)
