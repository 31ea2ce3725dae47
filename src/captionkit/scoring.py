"""What `captionkit score` does: score results files against references, and compare two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captionkit import files
from captionkit.datasets import open_dataset
from captionkit.metrics import Comparison, DocumentFrequencies, Metric, Scores, evaluate
from captionkit.metrics.reading import read_references
from captionkit.metrics.tokens import TOKENIZERS, tokenizer_of


@dataclass(frozen=True)
class Scored:
    """The scores of one results file, and how another compares with it."""

    scores: Scores
    comparison: Comparison | None

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        compared = {"comparison": self.comparison.to_dict()} if self.comparison else {}
        return {**self.scores.to_dict(), **compared}

    def __str__(self) -> str:
        return "\n\n".join(str(part) for part in (self.scores, self.comparison) if part)


def score_files(
    references: str,
    candidates: str,
    *,
    split: str | None = None,
    metrics: Sequence[str | Metric] | None = None,
    tokenizer: str | None = None,
    frequencies: Path | None = None,
    training: str | None = None,
    compare: str | None = None,
    per_image: Path | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Scored:
    """Score `candidates` against `references`, both files; arguments as those of `captionkit.evaluate`.

    frequencies: a file of saved document frequencies, or a corpus of references to count them in.
    training: the captions of a training set. compare: another results file. per_image: a CSV file to write.
    """
    wrote = read_references(references)
    looks = any(getattr(metric, "needs_images", False) for metric in metrics or ())
    options: dict[str, Any] = {
        "metrics": metrics,
        "split": split,
        "tokenizer": tokenizer,
        "frequencies": _frequencies(frequencies),
        "training": [c for image in read_references(training).images for c in image.captions] if training else None,
        "images": _images(references) if looks else None,
        "resamples": resamples,
        "seed": seed,
    }
    said = [evaluate(file, wrote, **options) for file in (candidates, compare) if file]
    if per_image:
        files.write_text(per_image, said[0].to_csv())
    return Scored(said[0], said[0].compare(said[1]) if compare else None)


def _frequencies(path: Path | None) -> DocumentFrequencies | None:
    if path is None:
        return None
    if path.suffix == ".npz":
        return DocumentFrequencies.load(path)
    images = [image.captions for image in read_references(path).images if image.captions]
    flat = iter(TOKENIZERS[tokenizer_of(images)](caption for some in images for caption in some))
    return DocumentFrequencies.of([[next(flat) for _ in some] for some in images])


def _images(path: str) -> dict[Any, Any]:
    return {example.id: example.image for pictures in open_dataset(path).values() for example in pictures}
