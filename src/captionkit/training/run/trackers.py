"""Experiment trackers through Accelerate's classes: TensorBoard in the run folder, optionally wandb, mlflow and others.

Each tracker is called directly instead of through `Accelerator.log` and `Accelerator.end_training`: with those, a
failing tracker would prevent logging to the next, and ending would destroy the process group, which a later run in the
same program needs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from captionkit.errors import RecipeError, one_line
from captionkit.utils import paths

_log = logging.getLogger(__name__)
TENSORBOARD = "tensorboard"
#: project or experiment name for trackers that group runs
_PROJECT = "captionkit"


def check_trackers(names: Sequence[str]) -> None:
    """Raise RecipeError for a tracker that Accelerate does not know, or whose package is not installed."""
    known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
    here = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise RecipeError(f"trainer.report_to: {name!r} is unknown; {hint}there are {', '.join(sorted(known))}")
        # Trackers that a program has registered itself have no package that Accelerate checks for.
        if name not in here and LOGGER_TYPE_TO_CLASS[name].__module__ == GeneralTracker.__module__:
            raise RecipeError(f"trainer.report_to: {name} is not installed; `pip install {name}`, or leave it out")


class Trackers:
    """The trackers of one session.

    TensorBoard's events are part of the run folder, so a full disk raises OSError. Any other tracker that fails is
    reported once and disabled for the rest of the session, and the run continues.
    """

    def __init__(self, names: Sequence[str], path: Path) -> None:
        self.path = path
        self._names = list(dict.fromkeys(names))
        self._started: dict[str, Any] = {}

    def start(self, config: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
        """Start all trackers with `config`, except TensorBoard, which is started with its first row.

        `known` are their ids of the run from earlier sessions; returns the ids of this session.
        """
        ids = {}
        for name in [name for name in self._names if name != TENSORBOARD]:
            try:
                tracker = self._start(name, _options(name, self.path, known.get(name)))
                tracker.store_init_configuration(dict(config))
                ids[name] = _id_of(name, tracker)
            except Exception as error:
                self._give_up(name, error)
        return {name: known_as for name, known_as in ids.items() if known_as}

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Log the `values` of a step to all trackers. Raises OSError if TensorBoard's events cannot be written."""
        for name in list(self._names):
            if name == TENSORBOARD:
                # Purge rows of a killed session from this step on; they are recorded again.
                tracker = self._started.get(name) or self._start(name, {"purge_step": step})
                tracker.log(dict(values), step=step)
                continue
            try:
                self._started[name].log(dict(values), step=step)
            except Exception as error:
                self._give_up(name, error)

    def flush(self) -> None:
        """Flush TensorBoard's events to disk; raises OSError."""
        if TENSORBOARD in self._started:
            self._started[TENSORBOARD].tracker.flush()

    def finish(self) -> None:
        """Finish all trackers at the end of the session; raises OSError as `record` does."""
        for name in [name for name in self._names if name != TENSORBOARD]:
            try:
                self._started[name].finish()
            except Exception as error:
                self._give_up(name, error)
        if TENSORBOARD in self._started:
            self._started[TENSORBOARD].finish()

    def _start(self, name: str, options: Mapping[str, Any]) -> Any:
        kind = LOGGER_TYPE_TO_CLASS[name]
        place = [TENSORBOARD if name == TENSORBOARD else _PROJECT]
        if kind.requires_logging_directory:
            place.append(str(self.path))
        tracker = kind(*place, **options)
        if hasattr(tracker, "start"):  # before Accelerate 1.8 the constructor started it
            tracker.start()
        self._started[name] = tracker
        return tracker

    def _give_up(self, name: str, error: Exception) -> None:
        self._names.remove(name)
        reason = one_line(error)
        _log.warning(f"{name}: failed and gets nothing more in this session ({reason}); metrics.jsonl has everything")


def _options(name: str, path: Path, known: str | None) -> dict[str, Any]:
    """Return options that name the run after its folder, and resume the tracker's run if its id is `known`."""
    called = paths.real(path).name
    if name == "wandb":
        return {"name": called, "dir": str(path), **({"id": known, "resume": "allow"} if known else {})}
    if name == "mlflow":
        return {"run_id": known} if known else {"run_name": called}
    return {}


def _id_of(name: str, tracker: Any) -> str:
    if name == "wandb":
        return str(tracker.tracker.id)
    return str(tracker.tracker.info.run_id) if name == "mlflow" else ""
