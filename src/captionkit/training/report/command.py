"""`captionkit report`: write the report of an existing run, whether finished, stopped or killed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from captionkit.data.layouts import CaptionSet
from captionkit.data.run_files import CURVES, METRICS, RECIPE, REPORT, REPORT_TEXT, read_metrics
from captionkit.errors import CaptionkitError
from captionkit.training.config.recipe import load_recipe
from captionkit.training.report import RunData, write_report
from captionkit.training.run.sessions import read_sessions
from captionkit.training.run_setup import splits_of
from captionkit.utils import paths
from captionkit.utils.output_checks import check_output_file, is_report
from captionkit.viz.curves import draw_curves


def report_run(run: Path, data: Sequence[Path] | None = None) -> Path:
    """Write the full report and the curves of the run in folder `run`; return the path of the report.

    `data` gives the current locations of the datasets; without it the recorded ones are used. Raises CaptionkitError if
    the folder holds no run, or `data` is not the data of the run.
    """
    if not paths.is_file(run / RECIPE):
        raise CaptionkitError(f"{run}: holds no run ({RECIPE} not found); give a folder that `captionkit train` made")
    for name in (REPORT, REPORT_TEXT):
        check_output_file(run / name, is_report)
    rows = read_metrics(run) if paths.exists(run / METRICS) and (run / METRICS).stat().st_size else []
    run_data = RunData(run, load_recipe(str(run / RECIPE)), rows, read_sessions(run), live=_is_live(run))
    run_data.whole = run_data.best is not None
    if run_data.kept:
        try:
            run_data.val = _validation(run_data, data)
        except CaptionkitError as error:
            if data:
                raise
            run_data.missing = f"{error}; name the data: {shlex.join(['captionkit', 'report', str(run)])} --data DATA"
    draw_curves(rows, run / CURVES)
    return write_report(run_data)


def _validation(run_data: RunData, data: Sequence[Path] | None) -> CaptionSet:
    """Return the validation images of the run. Raises CaptionkitError if the data is missing or has changed."""
    places = data or _places(run_data)
    if not places or run_data.kept is None:
        raise CaptionkitError(f"{run_data.path}: does not tell where its data lies")
    train, val = splits_of(run_data.recipe, places, run_data.kept.tokenizer)
    known = run_data.data.get("train", {}).get("fingerprint")
    if known and known != train.fingerprint():
        raise CaptionkitError(
            f"{', '.join(map(str, places))}: is not the data of this run any more (its fingerprint differs)"
        )
    return val


def _places(run_data: RunData) -> list[Path]:
    """Return the recorded locations of the data: from the last session, or else from the saved model's command."""
    if "places" in run_data.data:
        return [Path(place) for place in run_data.data["places"]]
    words: list[str] = []
    with suppress(ValueError):
        words = shlex.split(run_data.provenance.get("command", ""))
    ends = words.index("--output") if "--output" in words else 3
    return [Path(word) for word in words[2:ends]] if words[:2] == ["captionkit", "train"] else []


def _is_live(run: Path) -> bool:
    """Return whether a process is training in the folder."""
    if not (run / ".lock").exists():
        return False
    try:
        with FileLock(run / ".lock", blocking=False):
            return False
    except Timeout:
        return True
