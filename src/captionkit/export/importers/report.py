"""What an import found: its comparison with transformers, and the model card."""

from __future__ import annotations

from dataclasses import dataclass

from captionkit.export.importers.pretrained import Pretrained
from captionkit.export.quantization.report import Int8Report


@dataclass(frozen=True)
class Parity:
    """Captions of one precision's graphs, beside those that transformers' `generate` makes greedily."""

    precision: str
    images: int
    same_captions: int
    #: largest difference of a caption's log-probability, among those that are the same
    log_prob_difference: float
    megabytes: float

    def __str__(self) -> str:
        return (
            f"{self.precision}: {self.same_captions} of {self.images} captions the same as transformers'; largest "
            f"difference of a log-probability {self.log_prob_difference:.1e}; {self.megabytes:.1f} MB"
        )


@dataclass(frozen=True)
class ImportReport:
    """The comparison of every precision, and what 8 bits cost."""

    parities: tuple[Parity, ...]
    int8: Int8Report | None

    def __str__(self) -> str:
        return "\n".join([*map(str, self.parities), *([] if self.int8 is None else [str(self.int8)])])


def card(pretrained: Pretrained, report: ImportReport) -> str:
    """Return a Hub model card: front matter, description, source, and comparison."""
    origin, decoding = pretrained.origin, pretrained.generation.decoding
    license_line = f"license: {origin.license}\n" if origin.license else ""
    base = f"base_model: {origin.id}\n" if origin.revision else ""
    rows = [
        ("source", f"`{origin.id}`"),
        ("revision", f"`{origin.revision}`" if origin.revision else "a local folder"),
        ("licence", origin.license or "not stated by the source"),
        ("architecture", pretrained.kind),
        (
            "decoding",
            f"beam {decoding.num_beams}, length penalty {decoding.length_penalty}, {decoding.max_length} tokens",
        ),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""---
library_name: captionkit
pipeline_tag: image-to-text
{license_line}{base}tags:
- image-captioning
- onnx
---

# {origin.id}, as ONNX graphs

Describes an image in a sentence, without torch. Imported by `captionkit import`; the licence is the source's.

    pip install captionkit
    captionkit caption photo.jpg --model .

| | |
|---|---|
{table}

## Compared with transformers

```
{report}
```
"""
