"""The trials of a sweep, in an Optuna journal file shared by several processes.

Optuna stores them as lines of JSON; nothing is unpickled. The process that works on a trial holds a file lock, which
the operating system releases when the process dies, so that abandoned trials are recognized and resumed.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from captionkit.errors import TrainingError
from captionkit.training.config.recipe import Recipe, present_tables
from captionkit.training.tools.search_space import NAME, Space, chosen_fields, distributions

JOURNAL, TRIALS = "journal.jsonl", "trials"
#: number of complete trials before the median pruner starts
FIRST = 4
#: number of trials, all failed, after which a sweep gives up; number of killed processes after which a trial fails
_HOPELESS, _DEATHS = 3, 3
#: number of complete trials before importance is reported
_ENOUGH = 8

optuna.logging.set_verbosity(optuna.logging.ERROR)


class _JournalLock:
    """Journal lock that is released when its process is killed, unlike Optuna's own, which others would wait for."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


class ActiveTrial:
    """A trial that this process works on. `fields` are the values chosen for it."""

    def __init__(self, trial: Trial, folder: Path, lock: FileLock) -> None:
        self._trial, self.folder, self._lock = trial, folder, lock
        self.number: int = trial.number
        self.fields: dict[str, Any] = trial.user_attrs["fields"]
        self._earlier: float = trial.user_attrs.get("minutes", 0.0)
        self._deaths(+1)

    def _deaths(self, change: int) -> None:
        self._trial.set_user_attr("deaths", self._trial.user_attrs.get("deaths", 0) + change)

    def report(self, evaluation: int, row: Mapping[str, Any], minutes: float) -> bool:
        """Record an evaluation, by its number (from 1); return whether to prune the trial."""
        best = self._trial.user_attrs.get("best")
        if best is None or row["best"]:
            best = {name: row[name] for name in ("cider", "val_loss", "step", "epoch")}
            self._trial.set_user_attr("best", best)
        self._trial.set_user_attr("minutes", self._earlier + minutes)
        if evaluation not in self._trial.storage.get_trial(self._trial._trial_id).intermediate_values:
            self._trial.report(row["cider"], evaluation)
        return self._trial.should_prune()

    def end(self, state: TrialState, cider: float | None = None, why: str = "") -> None:
        """Record the final state of the trial and release its lock."""
        if why:
            self._trial.set_user_attr("why", why)
        self._trial.study.tell(self._trial, cider, state=state)
        self._lock.release()

    def leave(self) -> None:
        """Release the unfinished trial, to be resumed later."""
        self._deaths(-1)
        self._lock.release()


class Study:
    """The trials of the sweep in `folder`."""

    def __init__(self, folder: Path, recipe: Recipe, space: Space) -> None:
        self.folder, self.recipe, self.space = folder, recipe, space
        #: held while taking a trial or writing the report
        self.lock = FileLock(folder / ".lock")
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
        path = folder / JOURNAL
        journal_lock = _JournalLock(folder / ".locks" / JOURNAL)
        _drop_partial_line(path, journal_lock)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                # The base class of locks is not public.
                backend = JournalFileBackend(str(path), lock_obj=journal_lock)  # type: ignore[arg-type]
                storage = JournalStorage(backend)
            except ValueError as error:
                raise TrainingError(f"{path}: damaged ({error}); move {folder} away and start again") from None
            with self.lock:
                new = not storage.get_all_studies()
                make = partial(optuna.create_study, direction="maximize") if new else optuna.load_study
                self._study = make(study_name="sweep", storage=storage, pruner=MedianPruner(n_startup_trials=FIRST))

    def agree(self, definition: Mapping[str, Any]) -> None:
        """Store the definition of the sweep; raise TrainingError if the folder holds a sweep with another one."""
        with self.lock:
            stored = self._study.user_attrs.get("definition")
            if stored is not None:
                stored = stored | {part: present_tables(stored[part], str(self.folder)) for part in ("recipe", "space")}
            if stored is None:
                self._study.set_user_attr("definition", definition)
                for name in self._optimizers():
                    self._study.enqueue_trial({NAME: name})  # so that each optimizer is tried
                return
        if difference := _difference(stored, json.loads(json.dumps(definition))):
            raise TrainingError(
                f"{self.folder}: holds a sweep with another {difference}; give the same, or another --output"
            )

    def _optimizers(self) -> list[str]:
        dimension = self.space.get(NAME)
        return [str(name) for name in dimension.choices] if isinstance(dimension, CategoricalDistribution) else []

    def take(self, most: int) -> ActiveTrial | None:
        """Return a trial to work on: an abandoned one, or else a new one; None if `most` have been started.

        Raises:
            TrainingError: all trials so far failed.
        """
        with self.lock:
            for trial in self.trials(TrialState.RUNNING):
                if (taken := self._take_up(trial)) is not None:
                    return taken
            ended = self.ended()
            if len(ended) >= _HOPELESS and all(trial.state == TrialState.FAIL for trial in ended):
                raise TrainingError(
                    f"{self.folder}: the first {len(ended)} trials all failed, the last because "
                    f"{ended[-1].user_attrs['why']}; fix the recipe or the space, and give another --output"
                )
            begun = len(ended) + len(self.trials(TrialState.RUNNING))
            return self._begin(begun) if begun < most else None

    def _take_up(self, trial: FrozenTrial) -> ActiveTrial | None:
        lock = self._lock_of(trial.number)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        left = Trial(self._study, trial._trial_id)
        if "fields" not in trial.user_attrs or trial.user_attrs.get("deaths", 0) >= _DEATHS:
            left.set_user_attr("why", "its process was killed")
            self._study.tell(left, state=TrialState.FAIL)
            lock.release()
            return None
        return ActiveTrial(left, self.folder_of(trial.number), lock)

    def _begin(self, begun: int) -> ActiveTrial:
        # A separately seeded sampler for each trial, so that a resumed sweep behaves like an uninterrupted one.
        digest = hashlib.sha256(repr((self.recipe.trainer.seed, begun)).encode()).digest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = TPESampler(seed=int.from_bytes(digest[:4], "little"), constant_liar=True)
        trial = self._study.ask(distributions(self.space))
        lock = self._lock_of(trial.number)
        lock.acquire()
        trial.set_user_attr("fields", chosen_fields(self.space, trial.params, self.recipe))
        return ActiveTrial(trial, self.folder_of(trial.number), lock)

    def _lock_of(self, number: int) -> FileLock:
        return FileLock(self.folder / ".locks" / f"{number:04d}")

    def folder_of(self, number: int) -> Path:
        """Return the run folder of a trial."""
        return self.folder / TRIALS / f"{number:04d}"

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in the given states, ordered by number."""
        return self._study.get_trials(deepcopy=False, states=states)

    def ended(self) -> list[FrozenTrial]:
        """Return the trials that are complete, pruned or failed."""
        return self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

    def best(self) -> FrozenTrial | None:
        """Return the complete trial with the highest CIDEr-D; ties are broken by the lowest loss."""
        complete = self.trials(TrialState.COMPLETE)
        return max(complete, key=lambda trial: (trial.value, -trial.user_attrs["best"]["val_loss"]), default=None)

    def importance(self) -> dict[str, float]:
        """Return the importance of each field for CIDEr-D, largest first.

        Computed by PED-ANOVA (Watanabe et al., arXiv 2304.10255). Empty while too few trials are complete, or if all
        have the same score.
        """
        complete = self.trials(TrialState.COMPLETE)
        if len(complete) < _ENOUGH or len({trial.value for trial in complete}) == 1:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return get_param_importances(self._study, evaluator=PedAnovaImportanceEvaluator())


def _drop_partial_line(path: Path, lock: _JournalLock) -> None:
    """Remove an incomplete last line, left by a full disk; appending to it would corrupt the journal."""
    lock.acquire()
    try:
        if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _difference(one: Any, other: Any, name: str = "") -> str:
    """Describe the first difference between two nested tables; empty if they are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = (_difference(one.get(key), other.get(key), f"{name}.{key}") for key in sorted({*one, *other}))
        return next(filter(None, found), "")
    return "" if one == other else f"{name.lstrip('.')} ({one!r} there, {other!r} here)"
