"""`captionkit score`: score results files against references, and compare two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captionkit.data.layouts import open_dataset
from captionkit.metrics import Comparison, DocumentFrequencies, Metric, Scores, evaluate
from captionkit.metrics.caption_files import CandidateSet, ReferenceSet, read_candidates, read_references
from captionkit.metrics.tokens import TOKENIZERS, tokenizer_of
from captionkit.utils import atomic_write, output_checks


@dataclass(frozen=True)
class Scored:
    """The scores of one results file, and its comparison with another."""

    scores: Scores
    comparison: Comparison | None

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
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
    """Score the file `candidates` against the file `references`; arguments as for `captionkit.evaluate`.

    frequencies: a file of saved document frequencies, or a corpus of references to count them in.
    training: a dataset whose training captions are used. compare: another results file. per_image: a CSV to write.
    """
    if per_image:
        named = (references, candidates, compare, frequencies, training)
        output_checks.check_output_file(
            per_image, output_checks.is_image_scores, inputs=[path for path in named if path]
        )
    wrote, said = read_references(references), read_candidates(candidates)
    other = read_candidates(compare) if compare else None
    looks = any(getattr(metric, "needs_images", False) for metric in metrics or ())
    options: dict[str, Any] = {
        "metrics": metrics,
        "split": split,
        "tokenizer": tokenizer,
        "frequencies": _frequencies(frequencies, tokenizer),
        "training": _training(training) if training else None,
        "images": _images(references, split) if looks else None,
        "resamples": resamples,
        "seed": seed,
    }
    scores = evaluate(said, wrote, **options)
    comparison = _compared(scores, other, wrote, options) if other else None
    if per_image:
        atomic_write.write_text(per_image, scores.to_csv())
    return Scored(scores, comparison)


def _compared(scores: Scores, other: CandidateSet, wrote: ReferenceSet, options: dict[str, Any]) -> Comparison:
    """Compare on the images that both files caption; the problems of the other file are added to the notes."""
    theirs = evaluate(other, wrote, **options)
    scores.notes.extend(f"{other.origin}: {note}" for note in theirs.notes)
    if scores.ids == theirs.ids:
        return scores.compare(theirs)
    common = set(scores.ids) & set(theirs.ids)
    one, two = (
        {known: text for known, text in zip(side.ids, side.candidates, strict=True) if known in common}
        for side in (scores, theirs)
    )
    return evaluate(one, wrote, **options).compare(evaluate(two, wrote, **options))


def _frequencies(path: Path | None, tokenizer: str | None) -> DocumentFrequencies | None:
    if path is None:
        return None
    if path.suffix == ".npz":
        return DocumentFrequencies.load(path)
    images = [image.captions for image in read_references(path).images if image.captions]
    split_up = TOKENIZERS[tokenizer or tokenizer_of(images)]
    flat = iter(split_up(caption for some in images for caption in some))
    return DocumentFrequencies.of([[next(flat) for _ in some] for some in images])


def _training(path: str) -> list[str]:
    """Return the captions of the training split, or of all splits if there is none."""
    images = read_references(path).images
    train = [image for image in images if image.split == "train"] or images
    return [caption for image in train for caption in image.captions]


def _images(path: str, split: str | None) -> dict[Any, Any]:
    dataset = open_dataset(path)
    parts = [dataset.split(split)] if split else dataset.values()
    return {example.id: example.image for part in parts for example in part}
