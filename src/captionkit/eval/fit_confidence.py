"""`captionkit calibrate`: fit a model's confidence on captioned images, and report how reliable it is.

The model captions the images of the datasets, and out-of-distribution images (`captionkit.eval.out_of_distribution`).
The references decide which captions are right (`captionkit.metrics.agreement`), and two models are fitted: a word's
confidence (`captionkit.inference.word_confidence`) and a caption's (`captionkit.inference.caption_confidence`).
Everything reported about caption confidence is cross-validated: each fifth of the images is scored by a fit on the
other four fifths, and each kind of out-of-distribution image by a fit that saw only other kinds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from captionkit.data.images import Source
from captionkit.data.layouts import CaptionSet, captioned_split
from captionkit.errors import CaptionkitError
from captionkit.eval.out_of_distribution import KINDS, out_of_distribution_images
from captionkit.inference.caption_confidence import (
    DECODING_FEATURES,
    CaptionConfidence,
    decoding_features,
    evidence_of,
)
from captionkit.inference.captioner import BATCH, Caption, Captioner
from captionkit.inference.load import USUAL_RUNTIME, Runtime
from captionkit.inference.search import Overview
from captionkit.inference.word_confidence import Floats, WordConfidence, calibration_error, fit, logistic, sigmoid
from captionkit.metrics.agreement import RIGHT_FROM, ReferenceAgreement
from captionkit.utils.progress import progress_bar
from captionkit.utils.text_table import text_table

LOG = logging.getLogger(__name__)

#: least number of right captions, and of wrong ones, for a fit
FEWEST = 20
#: out-of-distribution images of each kind
_OF_A_KIND = 20
_FOLDS = 5
_READERS = 2
#: L2 penalties on the weights of standardised features; the one for the encoder's means is chosen by cross-validation
_TOLD_RIDGE, _IMAGE_RIDGES = 3.0, (30.0, 100.0, 300.0, 1000.0)
#: quantile of the photos' confidences below which out-of-distribution images should lie
_LOW = 0.2
#: smallest standard deviation; a feature below it is constant
_ALIKE = 1e-6


@dataclass(frozen=True)
class Share:
    """Results on the captions of one dataset.

    right: share of captions whose main statement is right. auc: area under the ROC curve, the probability that a right
        caption has a higher confidence than a wrong one; low, high: its 95 % interval. before: `auc` of the mean of the
        words' confidences. error: expected calibration error. apart: `auc` of a fit on the other datasets only.
    """

    name: str
    images: int
    right: float
    before: float
    auc: float
    low: float
    high: float
    error: float
    apart: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in vars(self).items()}

    def cells(self) -> tuple[str, ...]:
        """Return a row of the table under `_HEADINGS`."""
        auc = (f"{self.before:.3f}", f"{self.auc:.3f}", f"{self.low:.3f} to {self.high:.3f}")
        apart = "" if self.apart is None else f"{self.apart:.3f}"
        return (self.name, f"{self.images:,}", f"{self.right:.0%}", *auc, apart, f"{self.error:.3f}")


_HEADINGS = ("", "images", "right", "AUC before", "AUC", "95 %", "fitted apart", "error")


@dataclass(frozen=True)
class Fitted:
    """The fitted models, the data they were fitted on, and their quality.

    unfamiliar: for each kind of out-of-distribution image, the share with a lower confidence than four fifths of the
        photos.
    """

    data: list[dict[str, str]]
    shares: list[Share]
    unfamiliar: dict[str, float]
    calibration: WordConfidence
    confidence: CaptionConfidence

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: everything except the weights."""
        return {
            "data": self.data,
            "captions": [share.to_dict() for share in self.shares],
            "unfamiliar": self.unfamiliar,
            "words": {"number": self.calibration.words, "error": round(self.calibration.error_after, 4)},
            "sure_from": self.confidence.sure_from,
        }

    def tables(self) -> dict[str, Any]:
        """Return the tables of a model's config that store the fit."""
        confidence = replace(self.confidence, report=self.to_dict())
        return {"calibration": self.calibration.to_dict(), "confidence": confidence.to_dict()}

    def __str__(self) -> str:
        lines = text_table([_HEADINGS, *(share.cells() for share in self.shares)])
        kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in self.unfamiliar.items())
        return "\n".join([*lines, f"less confidence than {1 - _LOW:.0%} of the photos, of unfamiliar images: {kinds}"])


def calibrate_model(
    model: str,
    data: Sequence[str | Path],
    *,
    split: str = "val",
    write: bool = False,
    resamples: int = 1000,
    runtime: Runtime = USUAL_RUNTIME,
) -> Fitted:
    """Fit confidence on `split` of all the datasets together, all images weighted equally.

    `write` stores the fit in the model folder. `resamples` of the images give the intervals. Raises CaptionkitError,
    also if too few captions are right or wrong for a fit, or if `write` would change the bundled model.
    """
    sets = [captioned_split(one, split) for one in data]
    captioner = runtime.load(model)
    if write:
        captioner.folder.check_storable()
    fitted = fit_confidence(captioner, sets, resamples=resamples)
    if write:
        captioner.folder.store(fitted.tables())
    return fitted


def fit_confidence(captioner: Captioner, sets: Sequence[CaptionSet], *, resamples: int = 1000) -> Fitted:
    """Fit confidence on the captions that `captioner`, with its decoding settings, gives to captioned images.

    Raises CaptionkitError.
    """
    if not sets:
        raise CaptionkitError("nothing to calibrate on; name at least one dataset")
    photos = [_photos(captioner, caption_set) for caption_set in sets]
    right = np.concatenate([one.evidence.right for one in photos])
    if min(right.sum(), (~right).sum()) < FEWEST:
        raise CaptionkitError(
            f"{right.sum()} of {len(right)} captions are right, the others false; to tell them apart takes {FEWEST} of "
            "each, so name a larger dataset, or train the model further"
        )
    strange, kinds = _unfamiliar(captioner)
    everything = [*(one.evidence for one in photos), strange]
    crossed = _crossed(_joined(everything), kinds)
    parts = np.split(sigmoid(crossed.logits), np.cumsum([len(one.right) for one in everything])[:-1])
    low = np.quantile(np.concatenate(parts[:-1]), _LOW)
    named, confidences = np.array(kinds), parts[-1]
    return Fitted(
        [_described(caption_set) for caption_set in sets],
        [
            _share(one, confidence, _apart(everything, place, crossed.ridge), resamples)
            for place, (one, confidence) in enumerate(zip(photos, parts, strict=False))
        ],
        {kind: round(float((confidences[named == kind] < low).mean()), 4) for kind in KINDS},
        fit(*zip(*(chance for one in photos for chance in one.words), strict=True)),
        _confidence(crossed.weights),
    )


class _Evidence(NamedTuple):
    """N captions: features [N,F+D] from decoding and from the encoder's means, and whether each is right [N]."""

    features: Floats
    right: NDArray[np.bool_]


class _Photos(NamedTuple):
    """The captions of a dataset."""

    name: str
    evidence: _Evidence
    before: Floats  # [N], mean confidence of the words
    words: list[tuple[float, bool]]  # probability of each, and whether people used it


def _photos(captioner: Captioner, caption_set: CaptionSet) -> _Photos:
    """Caption a dataset. Raises CaptionkitError if no image can be captioned."""
    found = list(_captioned(captioner, [example.image for example in caption_set], "captioning"))
    if not found:
        raise CaptionkitError(f"{caption_set.name}: no image of split {caption_set.split!r} could be captioned")
    people = ReferenceAgreement([caption_set[place].captions for place, _, _ in found])
    right = people.agreement([caption.text for _, caption, _ in found]) >= RIGHT_FROM
    words = [
        (float(np.exp(word.log_prob)), people.used(place, word.text))
        for place, (_, caption, _) in enumerate(found)
        for word in caption.words
    ]
    before = np.array([np.mean([word.confidence for word in caption.words]) for _, caption, _ in found])
    return _Photos(caption_set.name, _Evidence(np.stack([features for *_, features in found]), right), before, words)


def _unfamiliar(captioner: Captioner) -> tuple[_Evidence, list[str]]:
    """Caption out-of-distribution images, all captions counted as wrong; return the evidence and the images' kinds."""
    images = out_of_distribution_images(_OF_A_KIND * len(KINDS))
    found = list(_captioned(captioner, [image for _, image in images], "captioning unfamiliar images"))
    features = np.stack([features for *_, features in found])
    return _Evidence(features, np.zeros(len(found), np.bool_)), [images[place][0] for place, _, _ in found]


def _captioned(captioner: Captioner, sources: Sequence[Source], what: str) -> Iterator[tuple[int, Caption, Floats]]:
    """Yield the index, caption and features of each source that can be captioned; report the errors of the others."""
    decoding = replace(captioner.decoding, num_captions=1)
    starts = range(0, len(sources), BATCH)
    with ThreadPoolExecutor(_READERS) as pool:
        for start in progress_bar(starts, len(starts), what):
            opened = list(pool.map(captioner.open, sources[start : start + BATCH]))
            for place, (outcome, overview) in enumerate(captioner.examine(opened, decoding), start):
                caption = outcome.caption
                if caption is None:
                    LOG.warning("%s", outcome.error)
                elif caption.words:
                    yield place, caption, _features(caption, overview)


def _features(caption: Caption, overview: Overview | None) -> Floats:
    log_probs = np.array([word.log_prob for word in caption.words])
    tokens, rows, columns = caption.attention.shape
    maps = caption.attention.reshape(tokens, rows * columns)  # [T,rows,columns] -> [T,G]
    features = decoding_features(log_probs, caption.log_prob, maps, evidence_of(overview, caption.tokens))
    return np.concatenate([features, [] if overview is None else overview.means])


class _Crossed(NamedTuple):
    """A fit on all data, with the logit [N] of each caption from a fit that did not include it."""

    weights: Floats  # [1+F+D], the bias first
    logits: Floats
    ridge: float


def _crossed(evidence: _Evidence, kinds: Sequence[str]) -> _Crossed:
    """Fit on all data; `kinds` are those of the last captions, which are of out-of-distribution images."""
    many = len(evidence.right) - len(kinds)
    names = list(KINDS)
    folds = np.concatenate([np.random.default_rng(0).permutation(many), [names.index(kind) for kind in kinds]]) % _FOLDS
    tried = {ridge: _held_out(evidence, folds.astype(int), ridge) for ridge in _IMAGE_RIDGES}
    ridge = min(tried, key=lambda one: _nats(tried[one], evidence.right))
    # L2-penalised weights give logits too close to 0; the held-out logits show by how much, as a slope and an offset.
    logits = tried[ridge]
    curve = np.stack([np.ones_like(logits), logits], axis=1)  # [N,2]
    offset, slope = logistic(curve, evidence.right.astype(float), np.ones(2), np.array([0.0, 1.0]))
    weights = slope * _weights(evidence, ridge)
    weights[0] += offset
    return _Crossed(weights, offset + slope * logits, ridge)


def _held_out(evidence: _Evidence, folds: NDArray[np.int64], ridge: float) -> Floats:
    """Return the logits [N] of each caption from a fit on all other folds."""
    logits = np.zeros(len(evidence.right))
    for fold in range(_FOLDS):
        inside = folds == fold
        weights = _weights(_Evidence(evidence.features[~inside], evidence.right[~inside]), ridge)
        logits[inside] = _logits(evidence.features[inside], weights)
    return logits


def _weights(evidence: _Evidence, image_ridge: float) -> Floats:
    """Return the regression's weights [1+F+D], the bias first, for unstandardised features."""
    means, deviations = evidence.features.mean(0), np.maximum(evidence.features.std(0), _ALIKE)
    scaled = np.concatenate([np.ones((len(evidence.right), 1)), (evidence.features - means) / deviations], axis=1)
    ridge = np.full(scaled.shape[1], image_ridge)
    ridge[0], ridge[1 : 1 + len(DECODING_FEATURES)] = _ALIKE, _TOLD_RIDGE
    found = logistic(scaled, evidence.right.astype(float), ridge, np.zeros(len(ridge)))
    slopes = found[1:] / deviations
    return np.concatenate([[found[0] - slopes @ means], slopes])


def _logits(features: Floats, weights: Floats) -> Floats:
    return weights[0] + features @ weights[1:]


def _nats(logits: Floats, right: NDArray[np.bool_]) -> float:
    return float((np.logaddexp(0, logits) - right * logits).mean())


def _apart(everything: Sequence[_Evidence], place: int, ridge: float) -> Floats | None:
    """Return the logits of one dataset's captions from a fit on the others; None if it is the only one."""
    others = [one for index, one in enumerate(everything[:-1]) if index != place]
    if not others:
        return None
    return _logits(everything[place].features, _weights(_joined([*others, everything[-1]]), ridge))


def _joined(parts: Sequence[_Evidence]) -> _Evidence:
    return _Evidence(np.concatenate([one.features for one in parts]), np.concatenate([one.right for one in parts]))


def _share(photos: _Photos, confidences: Floats, apart: Floats | None, resamples: int) -> Share:
    right = photos.evidence.right
    generator = np.random.default_rng(0)
    drawn = (generator.integers(len(right), size=len(right)) for _ in range(resamples))
    areas = [area for rows in drawn if not np.isnan(area := area_under_curve(confidences[rows], right[rows]))]
    low, high = np.quantile(areas, [0.025, 0.975]).tolist() if areas else (np.nan, np.nan)
    return Share(
        photos.name,
        len(right),
        float(right.mean()),
        area_under_curve(photos.before, right),
        area_under_curve(confidences, right),
        low,
        high,
        calibration_error(confidences, right.astype(float)),
        None if apart is None else area_under_curve(apart, right),
    )


def area_under_curve(values: Floats, right: NDArray[np.bool_]) -> float:
    """Return the ROC AUC: how often one of the `right` has a higher value than one of the others, ties counting half.

    Returns NaN unless both classes occur.
    """
    _, levels, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[levels]  # from 1; tied values share their mean rank
    true, false = int(right.sum()), int((~right).sum())
    if not true or not false:
        return float("nan")
    return float((ranks[right].sum() - true * (true + 1) / 2) / (true * false))


def _confidence(weights: Floats) -> CaptionConfidence:
    offset, *others = _short(weights)
    return CaptionConfidence(
        offset, dict(zip(DECODING_FEATURES, others, strict=False)), others[len(DECODING_FEATURES) :]
    )


def _short(weights: Iterable[float]) -> list[float]:
    """Round to six significant digits: the config is read whenever the model is opened."""
    return [float(f"{value:.6g}") for value in weights]


def _described(caption_set: CaptionSet) -> dict[str, str]:
    return {"name": caption_set.name, "split": caption_set.split, "fingerprint": caption_set.fingerprint()}
