"""Metrics in the shape of evaluate's modules: the same scores as `captionkit.evaluate`, however they are added."""

from __future__ import annotations

from typing import Any

import pytest

import captionkit
from captionkit.errors import CaptionkitError
from captionkit.metrics import load

SAID = ["a dog runs on the grass", "two red cats", "a boat by the sea", "snow"]
WRITTEN: list[Any] = [
    ["A dog is running.", "The dog runs on grass."],
    ["Two cats sleep.", "A pair of red cats."],
    "A man's red boat by the sea.",
    ["It snows."],
]


def expected(*metrics: str) -> dict[str, float]:
    written = {str(n): [those] if isinstance(those, str) else those for n, those in enumerate(WRITTEN)}
    said = {str(n): caption for n, caption in enumerate(SAID)}
    return dict(captionkit.evaluate(said, written, list(metrics), resamples=0))


def test_scores_are_those_of_evaluate_however_they_are_added() -> None:
    metric = load("cider", "bleu", "rouge")
    want = expected("cider", "bleu", "rouge")
    assert {"CIDEr-D", "BLEU-4", "ROUGE-L"} <= set(want) and want["CIDEr-D"] > 0
    assert metric.compute(predictions=SAID, references=WRITTEN) == pytest.approx(want)
    for prediction, reference in zip(SAID, WRITTEN, strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert len(metric) == 4
    assert metric.compute() == pytest.approx(want)
    metric.add_batch(predictions=SAID[:3], references=WRITTEN[:3])
    assert metric.compute(predictions=SAID[3:], references=WRITTEN[3:]) == pytest.approx(want)


def test_what_was_computed_is_forgotten() -> None:
    metric = load("rouge")
    metric.compute(predictions=SAID[:1], references=WRITTEN[:1])
    assert len(metric) == 0
    with pytest.raises(CaptionkitError, match="no captions to score"):
        metric.compute()
    assert metric.compute(predictions=SAID, references=WRITTEN) == pytest.approx(expected("rouge"))


def test_all_values_are_numbers() -> None:
    found = load("bleu", "diversity").compute(predictions=SAID, references=WRITTEN)
    assert found["distinct"] == 1.0 and found["vocabulary"] == len({w for caption in SAID for w in caption.split()})
    assert all(isinstance(value, (int, float)) for value in found.values())


def test_mistakes_are_told_in_a_line() -> None:
    metric = load("rouge")
    for wrong, reason in (
        ({"predictions": SAID, "references": WRITTEN[:2]}, "4 predictions and 2 references"),
        ({"predictions": "a dog", "references": "a dog"}, "lists, an entry per image"),
        ({"predictions": SAID}, "4 predictions and 0 references"),
    ):
        with pytest.raises(CaptionkitError, match=reason):
            metric.compute(**wrong)
    assert len(metric) == 0
    with pytest.raises(CaptionkitError, match="did you mean 'rouge'"):
        load("rogue")
    assert "rouge" in metric.name and "rouge" in metric.description
