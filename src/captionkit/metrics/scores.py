"""Scoring results: corpus scores with intervals, per-image scores, and the comparison of two systems."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from captionkit.errors import CaptionkitError
from captionkit.metrics.bootstrap import paired
from captionkit.metrics.caption_files import Id
from captionkit.metrics.diversity import Variety
from captionkit.metrics.metric import Floats, MetricResult

_LESS = "   less is better"


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Mapping[str, float]):
    """Corpus scores by name ("BLEU-4", "CIDEr-D", ...), on pycocoevalcap's scale: `scores["CIDEr-D"]`.

    ids, candidates, references: what was scored, in the order of `per_image`.
    intervals: by name, the ends of the corpus score's 95 % bootstrap interval; empty without resamples.
    variety: diversity of the captions; None if not requested.
    notes: remarks on the scores, a sentence each: overlap, empty captions, collapse, missing metrics.
    facts: how the scores were computed: tokenizer, resamples, seed.
    """

    ids: list[Id]
    candidates: list[str]
    references: list[tuple[str, ...]]
    results: list[MetricResult]
    intervals: dict[str, tuple[float, float]]
    variety: Variety | None
    without_references: list[Id]
    without_candidate: list[Id]
    notes: list[str]
    facts: dict[str, Any]

    @cached_property
    def values_by_name(self) -> dict[str, float]:
        """Return the corpus scores."""
        return {name: value for result in self.results for name, value in result.values.items()}

    @property
    def per_image(self) -> dict[str, Floats]:
        """Return the per-image scores, [N] by name."""
        return {name: result.per_image[:, m] for result in self.results for m, name in enumerate(result.names)}

    @cached_property
    def less_is_better(self) -> frozenset[str]:
        """Return the names of the error rates."""
        return frozenset(name for result in self.results if result.less_is_better for name in result.names)

    def __getitem__(self, name: str) -> float:
        return self.values_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of scores.json."""
        return {
            "images": len(self.ids),
            **self.values_by_name,
            **(self.variety.to_dict() if self.variety else {}),
            **({"less is better": sorted(self.less_is_better)} if self.less_is_better else {}),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "without references": self.without_references,
            "without candidate": self.without_candidate,
            "notes": self.notes,
            **self.facts,
        }

    def to_csv(self) -> str:
        """Return a CSV with a row per image: its id, candidate, scores and remarks."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        columns = self.per_image
        remarks = {name: texts for result in self.results for name, texts in result.remarks.items()}
        writer.writerow(["image_id", "caption", *columns, *remarks])
        for row, (known, said) in enumerate(zip(self.ids, self.candidates, strict=True)):
            numbers = (f"{column[row]:.6f}" for column in columns.values())
            writer.writerow([known, said, *numbers, *(texts[row] for texts in remarks.values())])
        return buffer.getvalue()

    def compare(self, other: Scores) -> Comparison:
        """Return the difference to `other`, scored on the same images.

        Raises CaptionkitError if the images differ, since at least CIDEr's document frequencies would differ. Score
        both on their common images.
        """
        if self.ids != other.ids:
            raise CaptionkitError("scored on different images, so not to be compared; score both on the same ones")
        theirs = {result.names: result for result in other.results}
        shared = [(result, theirs[result.names]) for result in self.results if result.names in theirs]
        if not shared or not self.facts["resamples"]:
            raise CaptionkitError("nothing to compare by: no metric in common, or no resamples of the images")
        rows = [row for one, two in shared for row in _differences(one, two, self.facts)]
        return Comparison(len(self.ids), rows)

    def __str__(self) -> str:
        lines = [f"{len(self.ids):,} image{'s' * (len(self.ids) != 1)}, {self.facts['tokenizer']} tokens"]
        if self.intervals:
            lines[0] += f", 95 % intervals of {self.facts['resamples']:,} resamples (seed {self.facts['seed']})"
        width = max((len(name) for name in self), default=0)
        for name, value in self.items():
            low, high = self.intervals.get(name, (np.nan, np.nan))
            interval = f"   {low:.4f} to {high:.4f}" if self.intervals else ""
            lines.append(f"{name:{width}}  {value:7.4f}{interval}" + _LESS * (name in self.less_is_better))
        if self.variety:
            v = self.variety
            novel = "" if v.novel is None else f", {v.novel:.1%} not among the training captions"
            lines.append(
                f"{v.distinct:.1%} distinct{novel}; {v.words:.1f} words ({v.shortest} to {v.longest}), "
                f"{v.vocabulary:,} different ones; commonest caption {v.commonest_share:.1%}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in self.items())
        return f"Scores({len(self.ids)} images: {scores})"


@dataclass(frozen=True)
class Difference:
    """One metric of two systems on the same images: `one` - `other`, its 95 % interval, and its p-value."""

    name: str
    one: float
    other: float
    low: float
    high: float
    p: float
    less_is_better: bool = False

    @property
    def difference(self) -> float:
        """Return `one` - `other`."""
        return self.one - self.other


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same images."""

    images: int
    differences: list[Difference]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for the machine-readable output."""
        return {
            "images": self.images,
            **{
                d.name: {
                    "one": d.one,
                    "other": d.other,
                    "difference": d.difference,
                    "interval": [d.low, d.high],
                    "p": d.p,
                    **({"less is better": True} if d.less_is_better else {}),
                }
                for d in self.differences
            },
        }

    def __str__(self) -> str:
        width = max(len(d.name) for d in self.differences)
        lines = [
            f"compared on {self.images:,} images: difference with its 95 % interval (paired bootstrap), and p "
            "(approximate randomisation)",
            f"{'':{width}}    this    other   difference",
        ]
        for d in self.differences:
            interval = f"{d.low:+.4f} to {d.high:+.4f}"
            row = f"{d.name:{width}} {d.one:7.4f}  {d.other:7.4f}  {d.difference:+.4f}  {interval}  p {d.p:.3f}"
            lines.append(row + _LESS * d.less_is_better)
        return "\n".join(lines)


def _differences(one: MetricResult, other: MetricResult, facts: Mapping[str, Any]) -> Iterator[Difference]:
    interval, p = paired(one, other, resamples=facts["resamples"], seed=facts["seed"])
    for m, name in enumerate(one.names):
        low, high, chance = (float(column[m]) for column in (*interval, p))
        yield Difference(name, one.values[name], other.values[name], low, high, chance, one.less_is_better)
