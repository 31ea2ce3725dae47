"""Confidence that means something: the fitted curve, and its errors."""

from __future__ import annotations

import numpy as np
import pytest

from captionkit.errors import ModelError
from captionkit.inference.word_confidence import WordConfidence, calibration_error, fit


def sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def test_the_curve_that_made_the_words_is_found_again() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.uniform(0.01, 0.99, 40_000)
    truth = sigmoid(1.2 + 0.6 * np.log(probabilities / (1 - probabilities)))
    made = fit(probabilities, generator.random(40_000) < truth)
    assert made.slope == pytest.approx(0.6, abs=0.03) and made.offset == pytest.approx(1.2, abs=0.05)
    assert made.words == 40_000 and made.error_after < 0.01 < made.error_before
    for probability in (0.05, 0.5, 0.9):
        wanted = sigmoid(1.2 + 0.6 * np.log(probability / (1 - probability)))
        assert made(probability) == pytest.approx(wanted, abs=0.02)


def test_it_is_the_maximum_of_the_penalised_likelihood() -> None:
    """Against a plain search over the plane, on few words."""
    probabilities = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 0.6])
    used = np.array([0, 1, 0, 1, 1, 1])
    made = fit(probabilities, used)
    targets = np.where(used, 5 / 6, 1 / 4)

    def cost(offset: float, slope: float) -> float:
        found = sigmoid(offset + slope * np.log(probabilities / (1 - probabilities)))
        fitted = -(targets * np.log(found) + (1 - targets) * np.log(1 - found)).sum()
        return fitted + ((slope - 1) ** 2 + offset**2) / 2

    best = cost(made.offset, made.slope)
    assert all(best <= cost(made.offset + a, made.slope + b) for a in (-0.01, 0, 0.01) for b in (-0.01, 0, 0.01))


@pytest.mark.parametrize("used", [[True] * 5, [False] * 5])
def test_one_sided_words_stay_away_from_certainty(used: list) -> None:
    made = fit([0.2, 0.4, 0.5, 0.6, 0.999999999], used)
    assert all(0.001 < made(p) < 0.9999999 for p in (0.1, 0.5, 0.9)) and np.isfinite(made.slope)


def test_no_words_leave_probabilities_as_they_are() -> None:
    made = fit([], [])
    assert made == WordConfidence()
    for probability in (0.001, 0.25, 0.8):
        assert made(probability) == pytest.approx(probability, abs=1e-9)
    assert 0 < made(0.0) < 1e-5 and 1 - 1e-5 < made(1.0) < 1


def test_the_calibration_error_by_hand() -> None:
    confidences, used = np.array([0.9, 0.9, 0.1, 0.1]), np.array([1.0, 0.0, 0.0, 0.0])
    assert calibration_error(confidences, used) == pytest.approx((abs(1.8 - 1) + abs(0.2 - 0)) / 4)
    assert calibration_error(np.array([]), np.array([])) == 0


def test_it_is_stored_and_read() -> None:
    made = fit([0.1, 0.5, 0.9], [False, True, True])
    assert WordConfidence.from_dict(made.to_dict()) == made and WordConfidence.from_dict({}) == WordConfidence()
    with pytest.raises(ModelError, match="calibration: slope is 'steep'"):
        WordConfidence.from_dict({"slope": "steep"})
    with pytest.raises(ModelError, match=r"calibration has no field 'slpe'; did you mean slope"):
        WordConfidence.from_dict({"slpe": 1})
    with pytest.raises(ModelError, match="offset is nan"):
        WordConfidence.from_dict({"offset": float("nan")})
