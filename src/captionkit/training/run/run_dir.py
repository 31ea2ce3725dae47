"""The run folder: recipe.toml, metrics.jsonl, sessions.jsonl, tensorboard/, curves.png, samples.html, captions.json,
report.html, report.md, last.safetensors, best/.
"""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captionkit.data.run_files import BEST, CAPTIONS, CURVES, LAST, METRICS, RECIPE, REPORT, REPORT_TEXT, SAMPLES
from captionkit.errors import ModelError, TrainingError
from captionkit.inference.model_folder import open_model
from captionkit.training.config.recipe import Recipe, load_recipe, recipe_fields
from captionkit.training.run.sessions import EARLIER_SESSIONS, SESSIONS
from captionkit.training.run.trackers import TENSORBOARD, Trackers
from captionkit.utils import atomic_write, paths
from captionkit.viz.curves import draw_curves

#: files and folders that a run writes, and that a new run would therefore overwrite
_OURS = (
    *(RECIPE, METRICS, CURVES, SAMPLES, LAST, BEST, CAPTIONS, REPORT_TEXT, REPORT),
    *(SESSIONS, EARLIER_SESSIONS, TENSORBOARD),
)


class RunFolder:
    """The folder of a run. Reading needs no preparation; `open` prepares it for writing, in one process only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes = False
        self.rows: list[dict[str, Any]] = []
        self._trackers = Trackers((), path)
        self._usual_hook = threading.excepthook
        self._lock = FileLock(path / ".lock", blocking=False)

    def check_new(self) -> None:
        """Raise TrainingError if the folder already holds a run, or files that a run would overwrite."""
        if paths.exists(self.path / RECIPE, TrainingError):
            raise TrainingError(f"{self.path}: holds a run already; continue it with --resume or give another --output")
        for name in _OURS:
            if paths.exists(self.path / name, TrainingError):
                raise TrainingError(f"{self.path}: holds {name}, which a new run would replace; give another --output")

    def recipe(self) -> Recipe:
        """Load the recipe of the run in the folder. Raises TrainingError if there is none."""
        if not paths.exists(self.path / RECIPE, TrainingError):
            raise TrainingError(f"{self.path}: holds no run to resume ({RECIPE} not found); leave out --resume")
        return load_recipe(str(self.path / RECIPE))

    def open(self, recipe: Recipe, *, resume: bool) -> None:
        """Lock the folder for writing by this process, and repair what a killed process left incomplete.

        The lock is released when the process ends, however it ends. On file systems without locking, filelock falls
        back to the existence of the lock file, which other hosts see too and which must be deleted by hand after a
        kill.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if not resume:
                self.check_new()  # again: another run may have started and ended here since the first check
            if resume:
                self._remove_partial_files()
        except Timeout:
            raise TrainingError(f"{self.path}: another process is training here; wait for it, or stop it") from None
        except NotImplementedError as error:  # raised by filelock before 3.21 on such file systems
            raise TrainingError(f"{self.path}: cannot be locked ({error}); give an --output on another disk") from None
        except OSError as error:
            raise self._unwritable(error) from None
        if not resume:
            atomic_write.write_text(self.path / RECIPE, recipe.to_toml())
        self._trackers = Trackers(recipe.trainer.report_to, self.path)
        threading.excepthook = self._hook
        self.writes = True

    def _remove_partial_files(self) -> None:
        """Remove partial files of a killed process, and let `open_model` finish an interrupted replacement of best/."""
        for name in _OURS:
            for folder in (self.path, self.path / BEST):
                for left in folder.glob(f".{name}.*.partial"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
        with suppress(ModelError):
            open_model((self.path / BEST).absolute())  # "run/best" could be a Hub id

    def track(self, recipe: Recipe, known: Mapping[str, str]) -> dict[str, str]:
        """Start the trackers; `known` are their ids of the run from earlier sessions. Returns the current ids."""
        values = {name: recipe.value(name) for name, _ in recipe_fields()}
        config = {
            name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()
        }
        return self._trackers.start(config, known) if self.writes else {}

    def truncate(self, step: int) -> None:
        """Drop metrics recorded after `step`, from which the run is resumed."""
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        self.rows = [row for row in map(_parse, lines) if row and row["step"] <= step]
        if self.writes:
            atomic_write.write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def record(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl and log it to the trackers."""
        self.rows.append(row)
        if not self.writes:
            return
        try:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            values = {name: value for name, value in row.items() if isinstance(value, float) and name != "epoch"}
            self._trackers.record(row["step"], {f"{row['kind']}/{name}": value for name, value in values.items()})
        except OSError as error:
            raise self._unwritable(error) from None

    def _hook(self, failure: threading.ExceptHookArgs) -> None:
        # On a full disk TensorBoard's thread prints a traceback; its writer raises the same error again in our thread.
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")):
            self._usual_hook(failure)

    def draw(self) -> None:
        """Update curves.png."""
        if self.writes:
            draw_curves(self.rows, self.path / CURVES)

    def flush(self) -> None:
        """Flush TensorBoard's events to disk."""
        try:
            self._trackers.flush()
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        """Finish the trackers and release the folder.

        Write errors are ignored here: events were flushed with each checkpoint.
        """
        try:
            with suppress(OSError):
                self._trackers.finish()
        finally:
            if threading.excepthook == self._hook:
                threading.excepthook = self._usual_hook
            self._lock.release()

    def _unwritable(self, error: OSError) -> TrainingError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = f"{'free space and --resume' if full else 'make it writable'}, or give another --output"
        return TrainingError(f"{self.path}: cannot be written ({error.strerror}); {remedy}")


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None  # the last line of a killed run may be incomplete
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) and "kind" in row else None
