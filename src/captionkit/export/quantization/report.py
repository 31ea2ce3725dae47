"""The report of `captionkit export --int8`: what is quantized, and what each step costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from captionkit.inference.model_folder import ENCODER
from captionkit.utils.text_table import text_table

_HEADING = "\n## In 8 bits\n"


def card_with(card: bytes, report: Int8Report) -> bytes:
    """Return a model card with this report appended, replacing an earlier one."""
    said = f"{_HEADING}\nThe graphs here were made by `captionkit export --int8`:\n\n```\n{report}\n```\n"
    return card_without(card) + said.encode()


def card_without(card: bytes) -> bytes:
    """Return a model card without such a report."""
    return card.partition(_HEADING.encode())[0]


@dataclass(frozen=True)
class QuantizedGraph:
    """One of the two quantized graphs.

    units: the number of its convolutions and matrix products; spared: those that stay in 32 bits. nats: the KL
    divergence from the float model per word of its captions; feature_error: the relative RMS error of the decoder's
    input.
    """

    name: str
    units: int
    float_units: tuple[str, ...]
    nats: float
    feature_error: float
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        kept = f"{self.units - len(self.float_units)} of {self.units} convolutions and matrix products in 8 bits"
        error = f", features {self.feature_error:.1%} off" if self.name == ENCODER else ""
        return f"{self.name}: {kept}; {self.nats:.5f} nats per word lost{error}"


@dataclass(frozen=True)
class QuantizationStep:
    """The captioner's scores relative to float32, its size and its speed after one quantization step.

    cider, loss, low and high are None if nothing was scored; loss, low and high are shares of float32's score, with low
    and high its 95 % interval from a paired bootstrap. same is the share of captions equal to float32's. Milliseconds
    per image are medians over images captioned one at a time, measured in alternation with float32.
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
    """The calibration and evaluation images, the two graphs, and the steps from float32 to both graphs in 8 bits."""

    calibration: str
    parts: tuple[QuantizedGraph, ...]
    steps: tuple[QuantizationStep, ...]
    compared_on: str

    @property
    def loss(self) -> float:
        """The share of CIDEr-D lost after the last step; 0 if nothing was scored."""
        return self.steps[-1].loss or 0.0

    def to_dict(self) -> dict[str, object]:
        """Return the report as stored in the folder's config."""
        parts = {
            part.name: {"units": part.units, "spared": list(part.float_units), "nats_per_word": part.nats}
            for part in self.parts
        }
        parts[ENCODER]["feature_error"] = self.parts[0].feature_error
        steps = [{name: value for name, value in vars(step).items() if value is not None} for step in self.steps]
        return {"calibration": self.calibration, "judged": self.compared_on, "graphs": parts, "steps": steps}

    def __str__(self) -> str:
        rows = [_HEAD, *(step.cells for step in self.steps)]
        columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
        table = text_table(list(zip(*columns, strict=True)), left=(0,))
        lines = [f"calibrated on {self.calibration}", *map(str, self.parts), f"compared on {self.compared_on}", *table]
        return "\n".join(lines)
