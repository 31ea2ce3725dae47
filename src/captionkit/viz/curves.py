"""Plot the curves of a training run from the rows of its metrics.jsonl."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from captionkit.errors import CaptionkitError
from captionkit.utils.atomic_write import MARK, write_bytes
from captionkit.viz.panels import column, panels_of, rows_of, smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: placeholder for the text colour, replaced by the page's colour in SVG output
_INK = "#010203"
_INKS = """<style>
:root { color: #1f2328; }
@media (prefers-color-scheme: dark) { :root { color: #e8eaed; } }
text { font-family: system-ui, sans-serif !important; }
</style>"""


def draw_curves(metrics: Sequence[Mapping[str, Any]], out: str | os.PathLike[str]) -> None:
    """Write a PNG of a run's losses, scores and learning rates, and of the other metrics recorded, atomically.

    Args:
        metrics: rows of kind "train" (step, epoch, loss in nats per word, lr_decoder, lr_encoder; reward, words and
            distinct of sampled captions) and "eval" (step, val_loss in nats per word, cider, words, distinct, best).
            If a resumed run logged a step twice, the later row is used. Values that are not finite leave a gap.
        out: the file to write.

    Raises:
        CaptionkitError: matplotlib is not installed, or the file cannot be written.
    """
    train, evaluations = rows_of(metrics, "train"), rows_of(metrics, "eval")
    panels = panels_of(train, evaluations)
    figure = new_figure(1.3 * sum(panel.height for panel in panels) + 0.7)
    axes = figure.subplots(len(panels), sharex=True, height_ratios=[panel.height for panel in panels])
    for panel, own in zip(panels, axes, strict=True):
        panel.draw(own, train, evaluations)
    epochs = np.nanmax(column(train + evaluations, "epoch"), initial=0)
    axes[-1].set_xlabel(f"step ({epochs:.4g} epochs)")
    write_figure(figure, out)


def curve_drawings(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bytes]]:
    """Return the non-empty panels of `draw_curves` as (title, description in words, SVG).

    Text in the drawings follows the reader's light or dark colour scheme. `metrics` as for `draw_curves`.
    """
    train, evaluations = rows_of(metrics, "train"), rows_of(metrics, "eval")
    drawings = []
    for panel in panels_of(train, evaluations):
        if panel.recorded(train, evaluations):
            figure = new_figure(3.1, 5.2)
            axes = figure.subplots()
            panel.draw(axes, train, evaluations)
            axes.set_xlabel("step")
            drawings.append((panel.title, panel.in_words(train, evaluations), figure_svg(figure)))
    return drawings


def compare_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], out: str | os.PathLike[str]) -> None:
    """Write a PNG that compares runs by epoch, atomically: training loss, validation loss and CIDEr-D.

    Args:
        runs: run name -> rows, as for `draw_curves`.
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
            rows = rows_of(metrics, kind)
            values = column(rows, key)
            if np.isfinite(values).any():
                shown = smooth(values) if kind == "train" else values
                marker = "." if kind == "eval" or len(rows) == 1 else ""
                axes.plot(column(rows, "epoch"), shown, color=f"C{number}", marker=marker, label=name)
    panels[-1].set_xlabel("epoch")
    write_figure(figure, out)


def new_figure(height: float, width: float = 9.0) -> Figure:
    """Return an empty figure of `width` by `height` inches. Raises CaptionkitError if matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise CaptionkitError("curves are drawn by matplotlib; `pip install 'captionkit[plot]'` brings it") from None
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(figure: Figure) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.has_data():
            axes.legend(frameon=False)


def write_figure(figure: Figure, out: str | os.PathLike[str]) -> None:
    """Write a figure as a PNG, atomically, in the common style. Raises CaptionkitError if it cannot be written."""
    _finish(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": MARK})
    write_bytes(out, png.getvalue())


def figure_svg(figure: Figure) -> bytes:
    """Return a figure as SVG with real text and a transparent background, without a date so that it is reproducible."""
    import matplotlib

    _finish(figure)
    for axes in figure.axes:
        axes.patch.set_visible(False)
        axes.tick_params(which="both", colors=_INK)
        axes.spines[:].set_color(_INK)
        legend = axes.get_legend()
        for text in (axes.xaxis.label, axes.yaxis.label, *(legend.get_texts() if legend else ())):
            text.set_color(_INK)
    svg = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "captionkit"}):
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = svg.getvalue().decode("utf-8").replace(_INK, "currentColor")
    return drawing.replace("<defs>", f"{_INKS}<defs>", 1).encode("utf-8")
