"""The panels of a run's curves: each draws its metrics, if they were recorded, and describes them in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN, VALIDATION, ENCODER, SCORE = "#4c78a8", "#e45756", "#54a24b", "#b279a2"
_TRAIN_LINE, _EVAL_LINE = TRAIN, "#f58518"
#: number of rows above which the faint unsmoothed line is rasterized in SVG output
_MANY = 2000

Rows = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its title, relative height and draw function; `usual` panels are always included."""

    title: str
    height: int
    draw: Callable[[Axes, Rows, Rows], None]
    #: (kind of row, column), of which at least one must be recorded
    columns: Sequence[tuple[str, str]]
    usual: bool = False

    def recorded(self, train: Rows, evaluations: Rows) -> bool:
        """Return whether there is anything to draw."""
        rows = {"train": train, "eval": evaluations}
        return any(np.isfinite(column(rows[kind], key)).any() for kind, key in self.columns)

    def in_words(self, train: Rows, evaluations: Rows) -> str:
        """Return a text alternative of the drawing: the first and last value of each line."""
        rows = {"train": train, "eval": evaluations}
        said = []
        for kind, key in self.columns:
            values = column(rows[kind], key)
            steps, values = column(rows[kind], "step")[np.isfinite(values)], values[np.isfinite(values)]
            if len(values):
                where = "training" if kind == "train" else "validation"
                first, last = (f"{values[n]:.4g} at step {steps[n]:,.0f}" for n in (0, -1))
                said.append(f"{where}, {key}: {first}, {last}")
        return f"{self.title} against steps; {'; '.join(said)}"


def draw_losses(axes: Axes, train: Rows, evaluations: Rows) -> None:
    """Draw the training loss, raw and smoothed, and the validation loss."""
    axes.set_ylabel("loss, nats per word")
    if train:
        losses = column(train, "loss")
        line(axes, train, losses, color=TRAIN, alpha=0.25, linewidth=0.8, rasterized=len(train) > _MANY)
        line(axes, train, smooth(losses), color=TRAIN, label="training, smoothed")
    if evaluations:
        line(axes, evaluations, column(evaluations, "val_loss"), color=VALIDATION, marker=".", label="validation")
        _mark_best(axes, evaluations, "val_loss", VALIDATION)


def draw_scores(axes: Axes, _: Rows, evaluations: Rows) -> None:
    """Draw the CIDEr-D of generated captions."""
    axes.set_ylabel("CIDEr-D")
    if np.isfinite(column(evaluations, "cider")).any():  # runs of version 0.1.0 have none
        line(axes, evaluations, column(evaluations, "cider"), color=SCORE, marker=".", label="validation, generated")
        _mark_best(axes, evaluations, "cider", SCORE)


def draw_rates(axes: Axes, train: Rows, _: Rows) -> None:
    """Draw the learning rates of decoder and encoder."""
    axes.set_ylabel("learning rate")
    peaks = []
    for key, name, colour in (("lr_decoder", "decoder", TRAIN), ("lr_encoder", "encoder", ENCODER)):
        rates = column(train, key)
        peak = np.nanmax(rates, initial=0)
        if peak > 0:  # the rate of a frozen encoder is zero throughout
            line(axes, train, rates, color=colour, label=name)
            peaks.append(peak)
    if peaks:
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(bottom=min(peaks) / 100)  # a cosine schedule ends at zero, which would stretch the log axis


def _both(key: str, label: str, *, share: bool = False) -> Callable[[Axes, Rows, Rows], None]:
    """Return a draw function for column `key` of sampled training captions and generated validation captions."""

    def draw(axes: Axes, train: Rows, evaluations: Rows) -> None:
        axes.set_ylabel(label)
        for rows, name, colour, marker in (
            (train, "training, sampled", _TRAIN_LINE, ""),
            (evaluations, "validation, generated", _EVAL_LINE, "."),
        ):
            values = column(rows, key)
            if np.isfinite(values).any():
                line(axes, rows, values, color=colour, label=name, marker=marker or ("." if len(rows) == 1 else ""))
        if share:
            axes.set_ylim(0, 1.03)

    return draw


#: all panels, from top to bottom
PANELS = (
    Panel("Loss", 3, draw_losses, (("train", "loss"), ("eval", "val_loss")), usual=True),
    Panel("CIDEr-D of the validation captions", 2, draw_scores, (("eval", "cider"),), usual=True),
    Panel(
        "Reward of sampled captions", 2, _both("reward", "reward, CIDEr-D"), (("train", "reward"), ("eval", "reward"))
    ),
    Panel("Length of the captions", 1, _both("words", "words a caption"), (("train", "words"), ("eval", "words"))),
    Panel(
        "Different captions",
        1,
        _both("distinct", "share that is distinct", share=True),
        (("train", "distinct"), ("eval", "distinct")),
    ),
    Panel("Learning rate", 1, draw_rates, (("train", "lr_decoder"), ("train", "lr_encoder")), usual=True),
)


def panels_of(train: Rows, evaluations: Rows) -> list[Panel]:
    """Return the usual panels, and those others for which the run has recorded something."""
    return [panel for panel in PANELS if panel.usual or panel.recorded(train, evaluations)]


def _mark_best(axes: Axes, evaluations: Rows, key: str, colour: str) -> None:
    best = [row for row in evaluations if row["best"] and row.get(key) is not None]
    if best:
        step, value = best[-1]["step"], best[-1][key]
        label = f"kept: {value:.3f} at step {step:,}"
        axes.plot([step], [value], color=colour, marker="*", markersize=15, linestyle="", label=label)


def line(axes: Axes, rows: Rows, values: np.ndarray, **style: Any) -> None:
    """Plot `values` against the rows' steps; a single value is drawn as a dot, since a line would not be visible."""
    axes.plot(column(rows, "step"), values, **{"marker": "." if len(rows) == 1 else "", **style})


def rows_of(metrics: Sequence[Mapping[str, Any]], kind: str) -> Rows:
    """Return the rows of a kind sorted by step; for a step recorded twice, the later row."""
    latest = {row["step"]: row for row in metrics if row["kind"] == kind}
    return [latest[step] for step in sorted(latest)]


def column(rows: Rows, key: str) -> np.ndarray:
    """Return one value per row; NaN where it is absent, null (as JSON writes NaN) or infinite."""
    values = np.array([row.get(key) for row in rows], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def smooth(values: np.ndarray) -> np.ndarray:
    """Smooth with a Gaussian, centred so that it does not lag behind a falling loss; gaps are preserved."""
    sigma = len(values) / 100
    reach = int(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        smoothed = np.convolve(np.where(known, values, 0), kernel, "same") / np.convolve(known, kernel, "same")
    return np.where(known, smoothed, np.nan)
