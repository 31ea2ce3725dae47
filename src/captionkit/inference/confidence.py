"""How likely a caption is right in the main thing, from what the model did while it told it.

A mean over words ("a", "in", "is" among them) hardly tells a true caption from a false one. Two things do so better:

- how it was told: the words' probabilities, and where the model looked. Of something it knows it looks here, then
  there; of what it has never seen, everywhere alike.
- the image, as the encoder sees it: the mean over its cells of what the decoder compares itself with. It tells a dog on
  a lawn, of which captions are mostly right, from a pizza or a page of text, of which they are not.

A logistic regression on both is fitted by `captionkit calibrate` (`captionkit.eval.fit_confidence`), against what
people wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.calibration import sigmoid
from captionkit.utils.dataclasses import check_fields

Floats = NDArray[np.float64]

#: what `told` measures, in its order
TOLD = ("log_prob", "least", "probability", "end", "length", "spread", "spread_change", "movement", "peak")
#: more numbers than any encoder has, and fewer than would take long to read
_MOST = 1 << 16
_LOWEST = -20.0  # of log-probabilities: what is as good as impossible is not to outweigh all else
_TINY = 1e-9


def told(log_probs: Floats, log_prob: float, attention: NDArray[np.floating[Any]]) -> Floats:
    """How a caption was told: the features `TOLD` [F].

    log_probs: [L] of its words, at least one. log_prob: of the whole caption, its end included. attention: [T,G] of its
        tokens.
    """
    words = np.maximum(log_probs, _LOWEST)
    maps = np.asarray(attention, np.float64)
    cells = maps.shape[1]
    spread = -(maps * np.log(maps + _TINY)).sum(1) / np.log(max(cells, 2))  # [T]; 1: all cells alike
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
        ]
    )


@dataclass(frozen=True)
class Confidence:
    """The fitted regression.

    offset: of the whole. told: weights by name, for some of the features `TOLD`. image: weights [D] for the means over
        cells that the encoder gives; empty where they are not used. sure_from: the confidence below which a caption is
        as likely false as not, so that it is said to be unsure. report: how well it does, as `captionkit calibrate`
        found.
    """

    offset: float
    told: Mapping[str, float]
    image: Sequence[float] = ()
    sure_from: float = 0.5
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(isinstance(self.told, Mapping), "told must be a table of numbers")
        unknown = [str(name) for name in self.told if name not in TOLD]
        _check(not unknown, f"told has no feature {', '.join(unknown)}; a newer captionkit may know it")
        _check(isinstance(self.image, (list, tuple)) and len(self.image) <= _MOST, "image must be a list of numbers")
        _check(isinstance(self.report, Mapping), "report must be a table")
        for value in (self.offset, *self.told.values(), *self.image):
            _check(_is_number(value), f"{value!r:.40} is no number")
        _check(_is_number(self.sure_from) and 0 <= self.sure_from <= 1, "sure_from must be a number from 0 to 1")
        # Arrays, made once: a caption is judged in microseconds.
        object.__setattr__(self, "_told", np.array([self.told.get(name, 0.0) for name in TOLD], np.float64))
        object.__setattr__(self, "_image", np.array(self.image, np.float64))

    def __call__(self, told: Floats, image: NDArray[Any] | None) -> float:
        """The confidence, 0 to 1, of a caption with the features `told` [F] of an image with the means `image` [D].

        ModelError where the image has other means than those that it was fitted on.
        """
        weights: Floats = self._image  # type: ignore[attr-defined]
        value: float = self.offset + float(self._told @ told)  # type: ignore[attr-defined]
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
        """The fields, as a model's config stores them."""
        return {
            "offset": self.offset,
            "told": dict(self.told),
            "image": list(self.image),
            "sure_from": self.sure_from,
            "report": dict(self.report),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Confidence:
        """Read what `to_dict` wrote. ModelError names what is wrong."""
        check_fields(cls, values, "confidence")
        missing = [name for name in ("offset", "told") if name not in values]
        _check(not missing, f"{' and '.join(missing)} missing")
        return cls(**values)


def check_confidence(value: float | None) -> None:
    """Raises CaptionkitError where `value` is no confidence that can be asked for: neither None nor 0 to 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1):
        raise CaptionkitError(f"min_confidence is {value!r}; use a number from 0 to 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _check(good: bool, wrong: str) -> None:
    if not good:
        raise ModelError(f"confidence: {wrong}")
