"""Word confidence, calibrated: the probability that the references use the word as well.

A model's probability of a word is spread over all possible continuations, so it says little about whether the word is
right: "a" after "on" may have probability 0.3 and be right nearly always. Confidence is defined as the probability that
the word occurs in the references of the image. Two numbers fitted on validation captions map one to the other (Platt
1999):

    confidence = sigmoid(offset + slope * logit(probability))

Of words with confidence 0.8, about 80 % then occur in the references. A caption's confidence is a separate model
(`captionkit.inference.caption_confidence`); a model folder without one uses the mean of the words' confidences, the
expected share of words that the references use as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from captionkit.errors import ModelError
from captionkit.utils.dataclasses import check_fields

Floats = NDArray[np.float64]

_EDGE = 1e-6  # probabilities are kept this far from 0 and 1
_PRIOR = 1.0  # L2 penalty, so that few or one-sided words do not give a steep curve
_STEPS = 50
_STILL = 1e-9  # a Newton step below this has converged
_CENTRE = np.array([0.0, 1.0])  # offset and slope of the identity


@dataclass(frozen=True)
class WordConfidence:
    """The fitted curve; with the defaults, confidence is the probability itself.

    words: number of words in the fit. error_before, error_after: expected calibration error on them, 0 to 1, of the
        probability and of the confidence.
    """

    slope: float = 1.0
    offset: float = 0.0
    words: int = 0
    error_before: float = 0.0
    error_after: float = 0.0

    def __post_init__(self) -> None:
        for name in ("slope", "offset"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
                raise ModelError(f"calibration: {name} is {value!r}; it must be a number")

    def __call__(self, probabilities: ArrayLike) -> Floats:
        """Return the confidences, 0 to 1, of words with these probabilities, in an array of the same shape."""
        return sigmoid(self.offset + self.slope * logit(np.asarray(probabilities, np.float64)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as a model's config stores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WordConfidence:
        """Read what `to_dict` wrote; missing fields take their defaults. Raises ModelError naming a wrong field."""
        check_fields(cls, values, "calibration")
        return cls(**values)


def fit(probabilities: Sequence[float], used: Sequence[bool]) -> WordConfidence:
    """Fit the curve to words' `probabilities` and to whether the references `used` them.

    Without words, return the default. Logistic regression with Platt's smoothed targets and a weak penalty towards
    slope 1.
    """
    if not len(probabilities):
        return WordConfidence()
    x, seen = logit(np.array(probabilities, np.float64)), np.array(used, np.float64)
    hits = seen.sum()
    targets = np.where(seen > 0, (hits + 1) / (hits + 2), 1 / (len(seen) - hits + 2))
    features = np.stack([np.ones_like(x), x], axis=1)  # [N,2]
    weights = logistic(features, targets, np.full(2, _PRIOR), _CENTRE)
    before, after = (calibration_error(sigmoid(features @ w), seen) for w in (_CENTRE, weights))
    return WordConfidence(float(weights[1]), float(weights[0]), len(x), before, after)


def logistic(features: Floats, targets: Floats, ridge: Floats, centre: Floats) -> Floats:
    """Fit a logistic regression by Newton's method and return its weights [F].

    Targets [N] are from 0 to 1, features [N,F]. ridge: L2 penalty of each weight's distance from its `centre` [F], all
    above 0.
    """
    weights = centre
    for _ in range(_STEPS):
        found = sigmoid(features @ weights)
        gradient = features.T @ (found - targets) + ridge * (weights - centre)
        curvature = (features * (found * (1 - found))[:, None]).T @ features + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        cost = _cost(features, targets, weights, ridge, centre)
        while _cost(features, targets, weights - step, ridge, centre) > cost and np.abs(step).max() > _STILL:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < _STILL:
            break
    return weights


def _cost(features: Floats, targets: Floats, weights: Floats, ridge: Floats, centre: Floats) -> float:
    """Return the negative log-likelihood plus the L2 penalty."""
    value = features @ weights
    nats = np.logaddexp(0, value) - targets * value
    return float(nats.sum() + (ridge * (weights - centre) ** 2).sum() / 2)


def calibration_error(confidences: Floats, used: Floats, bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017): mean |confidence - share used| over equal-width bins."""
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    distance = np.abs(np.bincount(place, confidences - used, minlength=bins))
    return float(distance.sum() / max(len(confidences), 1))


def logit(probability: Floats) -> Floats:
    """Return the log-odds; probabilities of 0 and 1 are clipped slightly inwards."""
    clipped = np.minimum(np.maximum(probability, _EDGE), 1 - _EDGE)  # for small arrays, faster than numpy's clip
    return np.log(clipped) - np.log1p(-clipped)


def sigmoid(value: Floats) -> Floats:
    """Return the probability whose log-odds are `value`."""
    return 0.5 * (1 + np.tanh(value / 2))
