"""Plots of learning rates: the curves of a range test, and the scores of a sweep's trials by learning rate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from captionkit.viz.curves import figure_svg, new_figure, write_figure
from captionkit.viz.panels import ENCODER, SCORE, TRAIN, VALIDATION

_PARTS = {"decoder": TRAIN, "encoder": ENCODER}


def draw_range_tests(tests: Sequence[Mapping[str, Any]], out: str | os.PathLike[str]) -> None:
    """Write a PNG of learning-rate range tests, one panel each, atomically.

    Args:
        tests: each with part ("decoder" or "encoder"), rates, losses and smoothed (of equal length; nats per word), and
            the rates steepest, lowest and suggested.
        out: the file to write.

    Raises:
        CaptionkitError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(4.2 * len(tests))
    panels = figure.subplots(len(tests), squeeze=False)[:, 0]
    for axes, test in zip(panels, tests, strict=True):
        colour = _PARTS[test["part"]]
        axes.plot(test["rates"], test["losses"], color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(test["rates"], test["smoothed"], color=colour, label="training loss, smoothed")
        marks = (("suggested", VALIDATION, "-"), ("steepest", SCORE, ":"), ("lowest", "#777777", ":"))
        for name, mark, style in marks:
            axes.axvline(test[name], color=mark, linestyle=style, label=f"{name}: {test[name]:.1e}")
        axes.set_xscale("log")
        axes.set_xlabel(f"learning rate of the {test['part']}")
        axes.set_ylabel("loss, nats per word")
    write_figure(figure, out)


def draw_trials(
    trials: Sequence[Mapping[str, Any]], importance: Mapping[str, float], out: str | os.PathLike[str]
) -> bytes:
    """Write a PNG of a sweep's trials, atomically: CIDEr-D against the decoder's rate, and hyperparameter importance.

    Return the same figure as an SVG that follows a page's colours.

    Args:
        trials: each with optimizer (its name), lr_decoder, cider (of its best evaluation; None without one) and pruned.
        importance: field -> importance (PED-ANOVA) as a share, largest first; if empty, the panel is omitted.
        out: the file to write.

    Raises:
        CaptionkitError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(4.2 + (1.0 + 0.3 * len(importance) if importance else 0))
    ratios = (4.2, 1.0 + 0.3 * len(importance)) if importance else (1,)
    panels = figure.subplots(len(ratios), squeeze=False, height_ratios=ratios)[:, 0]
    _draw_scores(panels[0], trials)
    if importance:
        names, shares = list(importance)[::-1], list(importance.values())[::-1]
        panels[1].barh(names, shares, color=TRAIN, label="share in what decided (PED-ANOVA)")
    write_figure(figure, out)
    return figure_svg(figure)


def _draw_scores(axes: Any, trials: Sequence[Mapping[str, Any]]) -> None:
    names = sorted({trial["optimizer"] for trial in trials})
    for number, name in enumerate(names):
        for pruned in (False, True):
            some = [t for t in trials if t["optimizer"] == name and t["pruned"] is pruned and t["cider"] is not None]
            filled = "none" if pruned else f"C{number}"
            axes.scatter(
                [trial["lr_decoder"] for trial in some],
                [trial["cider"] for trial in some],
                facecolors=filled,
                edgecolors=f"C{number}",
                label=None if pruned else name,
            )
    axes.set_xscale("log")
    axes.set_xlabel("peak learning rate of the decoder (hollow: ended early)")
    axes.set_ylabel("CIDEr-D, best evaluation")
