"""Caption confidence: the probability that a caption's main statement is right, from features of its decoding.

The mean over words ("a", "in", "is" among them) hardly separates right captions from wrong ones. Two sources do better:

- the decoding: the words' probabilities and the attention. For familiar content, attention moves from place to place;
for unfamiliar content, it spreads evenly.
- a concept head, if the model has one: how strongly the image's features speak for the caption's words, whatever
their order (`captionkit.models.concepts`).
- the image, as the encoder represents it: the mean over grid cells of what the decoder attends to. It separates a dog
on a lawn, of which captions are mostly right, from a pizza or a page of text, of which they are not.

`captionkit calibrate` (`captionkit.eval.fit_confidence`) fits a logistic regression on both, with targets derived from
the references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.search.stepper import Overview
from captionkit.inference.word_confidence import sigmoid
from captionkit.utils.dataclasses import check_fields

Floats = NDArray[np.float64]

#: the features that `decoding_features` returns, in order
DECODING_FEATURES = (
    "log_prob",
    "least",
    "probability",
    "end",
    "length",
    "spread",
    "spread_change",
    "movement",
    "peak",
    "evidence",
    "most_evidence",
    "least_evidence",
)
#: the features that come from a concept head
_FROM_EVIDENCE = DECODING_FEATURES[-3:]
#: limit on the number of weights: above any encoder's width, and quick to read
_MOST = 1 << 16
_LOWEST = -20.0  # lower bound of log-probabilities, so that a near-impossible word does not dominate
_TINY = 1e-9


def decoding_features(
    log_probs: Floats, log_prob: float, attention: NDArray[np.floating[Any]], evidence: NDArray[np.floating[Any]]
) -> Floats:
    """Return the decoding features `DECODING_FEATURES` [F] of a caption.

    log_probs: [L] of its words, at least one. log_prob: of the whole caption, including its end token. attention: [T,G]
        of its tokens. evidence: that of a concept head for the tokens, see `evidence_of`.
    """
    words = np.maximum(log_probs, _LOWEST)
    maps = np.asarray(attention, np.float64)
    cells = maps.shape[1]
    if not cells:  # a model without attention maps
        maps, cells = np.ones((1, 1)), 1
    spread = -(maps * np.log(maps + _TINY)).sum(1) / np.log(max(cells, 2))  # [T]; 1: uniform over the cells
    movement = maps.std(0).mean() * cells
    return np.array(
        [
            words.mean(),
            words.min(),
            np.exp(words).mean(),
            np.clip(log_prob - words.sum(), _LOWEST, 0),
            np.log(len(words)),
            spread.mean(),
            spread.std(),
            movement,
            maps.max() * cells,
            evidence.mean(),
            evidence.max(),
            evidence.min(),
        ]
    )


def evidence_of(overview: Overview | None, tokens: Sequence[int] | NDArray[np.int64]) -> NDArray[np.floating[Any]]:
    """Return the evidence of an image's concept head for the tokens of a caption; zeros without a head."""
    if overview is None or overview.evidence is None or not len(tokens):
        return np.zeros(1)
    return overview.evidence[np.asarray(tokens)]  # [V] -> [T]


@dataclass(frozen=True)
class CaptionConfidence:
    """The fitted logistic regression.

    offset: its bias. told: weights by name, for some of `DECODING_FEATURES`. image: weights [D] for the encoder's means
        over cells; empty if unused. sure_from: the threshold below which a caption is as likely wrong as right, and is
        reported as unsure. report: its quality, as measured by `captionkit calibrate`.
    """

    offset: float
    told: Mapping[str, float]
    image: Sequence[float] = ()
    sure_from: float = 0.5
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(isinstance(self.told, Mapping), "told must be a table of numbers")
        unknown = [str(name) for name in self.told if name not in DECODING_FEATURES]
        _check(not unknown, f"told has no feature {', '.join(unknown)}; a newer captionkit may know it")
        _check(isinstance(self.image, (list, tuple)) and len(self.image) <= _MOST, "image must be a list of numbers")
        _check(isinstance(self.report, Mapping), "report must be a table")
        for value in (self.offset, *self.told.values(), *self.image):
            _check(_is_number(value), f"{value!r:.40} is no number")
        _check(_is_number(self.sure_from) and 0 <= self.sure_from <= 1, "sure_from must be a number from 0 to 1")
        # Built once, since scoring a caption takes microseconds.
        object.__setattr__(
            self, "_told", np.array([self.told.get(name, 0.0) for name in DECODING_FEATURES], np.float64)
        )
        object.__setattr__(self, "_image", np.array(self.image, np.float64))

    @property
    def sees_images(self) -> bool:
        """Whether it needs the image's features besides those of decoding."""
        return bool(len(self.image)) or any(self.told.get(name) for name in _FROM_EVIDENCE)

    def __call__(self, features: Floats, image: NDArray[Any] | None) -> float:
        """Return the confidence, 0 to 1, of a caption with `features` [F] and encoder means `image` [D].

        Raises ModelError if the number of means differs from that of the fit.
        """
        weights: Floats = self._image  # type: ignore[attr-defined]
        value: float = self.offset + float(self._told @ features)  # type: ignore[attr-defined]
        if len(weights):
            if image is None or image.shape != weights.shape:
                size = "none" if image is None else len(image)
                raise ModelError(
                    f"confidence was fitted on {len(weights)} means of the encoder, which now has {size}; "
                    "fit it again with `captionkit calibrate`"
                )
            value += float(weights @ image)
        return float(sigmoid(np.float64(value)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as a model's config stores them."""
        return {
            "offset": self.offset,
            "told": dict(self.told),
            "image": list(self.image),
            "sure_from": self.sure_from,
            "report": dict(self.report),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CaptionConfidence:
        """Read what `to_dict` wrote. Raises ModelError naming what is wrong."""
        check_fields(cls, values, "confidence")
        missing = [name for name in ("offset", "told") if name not in values]
        _check(not missing, f"{' and '.join(missing)} missing")
        return cls(**values)


def check_confidence(value: float | None) -> None:
    """Raise CaptionkitError unless `value` is a valid threshold: None or a number from 0 to 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1):
        raise CaptionkitError(f"min_confidence is {value!r}; use a number from 0 to 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _check(good: bool, wrong: str) -> None:
    if not good:
        raise ModelError(f"confidence: {wrong}")
