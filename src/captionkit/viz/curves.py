"""The curves of a training run, drawn from its metrics.jsonl rows."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from captionkit.errors import CaptionkitError
from captionkit.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VALIDATION, ENCODER, SCORE = "#4c78a8", "#e45756", "#54a24b", "#b279a2"


def draw_curves(metrics: Sequence[Mapping[str, Any]], out: str | os.PathLike[str]) -> None:
    """Write a PNG of the losses and learning rates of a run, atomically.

    Args:
        metrics: rows of kind "train" (step, epoch, loss in nats per word, lr_decoder, lr_encoder) and "eval" (step,
            val_loss in nats per word, cider, best). Where a resumed run logged a step twice, the later row counts.
            Losses that are not finite leave a gap.
        out: the file to write.

    Raises:
        CaptionkitError: matplotlib is not installed, or the file cannot be written.
    """
    train, evaluations = _rows(metrics, "train"), _rows(metrics, "eval")
    figure = new_figure(8.5)
    loss, scores, rates = figure.subplots(3, sharex=True, height_ratios=(3, 2, 1))
    _draw_losses(loss, train, evaluations)
    _draw_scores(scores, evaluations)
    _draw_rates(rates, train)
    epochs = np.nanmax(_column(train + evaluations, "epoch"), initial=0)
    rates.set_xlabel(f"step ({epochs:.4g} epochs)")
    write_figure(figure, out)


def compare_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], out: str | os.PathLike[str]) -> None:
    """Write a PNG of several runs against epochs, atomically: training loss, validation loss and CIDEr-D.

    Args:
        runs: name -> rows, as for `draw_curves`.
        out: the file to write.

    Raises:
        CaptionkitError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(9.5)
    panels = figure.subplots(3, sharex=True)
    kinds = (("train", "loss", "training loss"), ("eval", "val_loss", "validation loss"), ("eval", "cider", "CIDEr-D"))
    for axes, (kind, key, label) in zip(panels, kinds, strict=True):
        axes.set_ylabel(label if key == "cider" else f"{label}, nats per word")
        for number, (name, metrics) in enumerate(runs.items()):
            rows = _rows(metrics, kind)
            values = _column(rows, key)
            if np.isfinite(values).any():
                shown = _smooth(values) if kind == "train" else values
                marker = "." if kind == "eval" or len(rows) == 1 else ""
                axes.plot(_column(rows, "epoch"), shown, color=f"C{number}", marker=marker, label=name)
    panels[-1].set_xlabel("epoch")
    write_figure(figure, out)


def new_figure(height: float) -> Figure:
    """An empty figure of 9 inches by `height`. Raises CaptionkitError where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise CaptionkitError("curves are drawn by matplotlib; `pip install captionkit[train]` brings it") from None
    figure = Figure(figsize=(9, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Figure, out: str | os.PathLike[str]) -> None:
    """Write a figure as a PNG, atomically, in the look that all curves share. Raises CaptionkitError."""
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.has_data():
            axes.legend(frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_bytes(out, png.getvalue())


def _draw_losses(axes: Axes, train: list[Mapping[str, Any]], evaluations: list[Mapping[str, Any]]) -> None:
    axes.set_ylabel("loss, nats per word")
    if train:
        losses = _column(train, "loss")
        _line(axes, train, losses, color=TRAIN, alpha=0.25, linewidth=0.8)
        _line(axes, train, _smooth(losses), color=TRAIN, label="training, smoothed")
    if evaluations:
        _line(axes, evaluations, _column(evaluations, "val_loss"), color=VALIDATION, marker=".", label="validation")
        _mark_best(axes, evaluations, "val_loss", VALIDATION)


def _draw_scores(axes: Axes, evaluations: list[Mapping[str, Any]]) -> None:
    axes.set_ylabel("CIDEr-D")
    if np.isfinite(_column(evaluations, "cider")).any():  # runs of version 0.1.0 have none
        _line(axes, evaluations, _column(evaluations, "cider"), color=SCORE, marker=".", label="validation, generated")
        _mark_best(axes, evaluations, "cider", SCORE)


def _mark_best(axes: Axes, evaluations: list[Mapping[str, Any]], key: str, colour: str) -> None:
    best = [row for row in evaluations if row["best"] and row.get(key) is not None]
    if best:
        step, value = best[-1]["step"], best[-1][key]
        label = f"kept: {value:.3f} at step {step:,}"
        axes.plot([step], [value], color=colour, marker="*", markersize=15, linestyle="", label=label)


def _draw_rates(axes: Axes, train: list[Mapping[str, Any]]) -> None:
    axes.set_ylabel("learning rate")
    peaks = []
    for key, name, colour in (("lr_decoder", "decoder", TRAIN), ("lr_encoder", "encoder", ENCODER)):
        rates = _column(train, key)
        peak = np.nanmax(rates, initial=0)
        if peak > 0:  # a frozen encoder's is zero throughout
            _line(axes, train, rates, color=colour, label=name)
            peaks.append(peak)
    if peaks:
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(bottom=min(peaks) / 100)  # a cosine ends at zero, which would stretch the axis without end


def _line(axes: Axes, rows: list[Mapping[str, Any]], values: np.ndarray, **style: Any) -> None:
    """`values` against the rows' steps; a single value, of which a line shows nothing, as a dot."""
    axes.plot(_column(rows, "step"), values, **{"marker": "." if len(rows) == 1 else "", **style})


def _rows(metrics: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    latest = {row["step"]: row for row in metrics if row["kind"] == kind}
    return [latest[step] for step in sorted(latest)]


def _column(rows: list[Mapping[str, Any]], key: str) -> np.ndarray:
    """One value a row; NaN where it is absent, null (as JSON writes NaN) or infinite."""
    values = np.array([row.get(key) for row in rows], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Gaussian average, centred so that it does not lag behind a falling loss, that leaves gaps as they are."""
    sigma = len(values) / 100
    reach = int(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        smooth = np.convolve(np.where(known, values, 0), kernel, "same") / np.convolve(known, kernel, "same")
    return np.where(known, smooth, np.nan)
