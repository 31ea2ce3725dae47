"""What `bench/speed.py` measured, as an image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from captionkit.utils.atomic_write import write_bytes
from captionkit.viz.curves import new_figure
from speed_cases import BATCHES, COLD, COMMAND, FORCED, IMPORTS, LIBRARY, PARTS, STAGES, STEPS, case
from speed_report import PEERS
from speed_results import Results
from tables import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _THEIRS = "#0b6e4f", "#8d99ae"
_SHADES = ("#d9b44a", "#4f9d69", "#0b6e4f", "#2f4858")


def draw(results: Results, out: Path) -> None:
    """Write a PNG: the captioners, the stages of ours beside the machine's limit, and the cold start."""
    panels = [_captioners, _stages] + ([_cold] if results.rounds.get(COLD) else [])
    heights = [0.34 * (2 * len(results.own) + len(PEERS)) + 1, 0.34 * len(results.own) * len(BATCHES) + 1, 2.2]
    image = new_figure(sum(heights[: len(panels)]))
    axes = image.subplots(len(panels), height_ratios=heights[: len(panels)], squeeze=False)[:, 0]
    for panel, own in zip(panels, axes, strict=True):
        panel(own, results)
        own.invert_yaxis()
        own.grid(axis="x", alpha=0.25)
        own.set_axisbelow(True)
        own.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    image.savefig(png, format="png")
    write_bytes(out, png.getvalue())


def _captioners(axes: Axes, results: Results) -> None:
    own = {(name, chosen): name for name in results.own for chosen in (case(3, 1), FORCED)}
    for (name, chosen), title in {**own, **PEERS}.items():
        found = results.figure(name, chosen)
        if found:
            steps = "" if chosen == case(3, 1) else f", {STEPS} steps"
            label = f"captionkit {title}{steps}" if name in results.own else f"{title}{steps}"
            axes.barh(label, found.median, color=_OURS if name in results.own else _THEIRS)
            axes.annotate(f" {figure(found.median)} ms", (found.median, label), va="center")
    axes.set_xscale("log")
    axes.set_xlim(1, 4 * max((bar.get_width() for bar in axes.patches), default=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("From a JPEG to a beam-3 caption, one image at a time", loc="left")
    axes.set_xlabel("milliseconds an image (logarithmic)")


def _stages(axes: Axes, results: Results) -> None:
    cases = [(name, batch) for name in results.own for batch in BATCHES if results.has(name, case(3, batch))]
    labels = [f"{name}, batch {batch}" for name, batch in cases]
    starts = [0.0] * len(cases)
    limits: list[tuple[str, float, float]] = []
    for stage, shade in zip(STAGES, _SHADES, strict=False):
        medians = [results.figure(name, case(3, batch), stage).median for name, batch in cases]
        axes.barh(labels, medians, left=starts, color=shade, label=stage)
        for (name, batch), label, start in zip(cases, labels, starts, strict=True):
            limit = results.limit(name, case(3, batch), stage) if stage != "open" else None
            if limit:
                limits.append((label, limit.least, start))
        starts = [start + median for start, median in zip(starts, medians, strict=True)]
    if limits:
        places, widths, lefts = zip(*limits, strict=True)
        axes.barh(places, widths, left=lefts, height=0.25, color="white", ec="#333333", lw=0.6, label="machine's limit")
    for label, end in zip(labels, starts, strict=True):
        axes.annotate(f" {figure(end)} ms", (end, label), va="center")
    axes.margins(x=0.12)
    axes.set_title("captionkit by stage at beam 3", loc="left")
    axes.set_xlabel("milliseconds an image")
    _legend(axes)


def _cold(axes: Axes, results: Results) -> None:
    start = 0.0
    for part, shade in zip(PARTS, _SHADES, strict=True):
        median = results.figure(COLD, LIBRARY, part).median
        axes.barh(LIBRARY, median, left=start, color=shade, label=part)
        start += median
    for chosen in (COMMAND, IMPORTS):
        axes.barh(chosen, results.figure(COLD, chosen).median, color=_OURS if chosen == COMMAND else _THEIRS)
    for chosen in (LIBRARY, COMMAND, IMPORTS):
        median = results.figure(COLD, chosen).median
        axes.annotate(f" {figure(median)} ms", (median, chosen), va="center")
    axes.margins(x=0.14)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("From the start of a process to the first sentence", loc="left")
    axes.set_xlabel("milliseconds")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Between the panel and its title."""
    if axes.has_data():
        tight = {"columnspacing": 1.2, "handlelength": 1.2, "handletextpad": 0.5}
        axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(-0.01, 0.97), **tight)
        axes.set_title(axes.get_title(loc="left"), loc="left", pad=26)
