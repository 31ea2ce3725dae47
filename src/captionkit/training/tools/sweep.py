"""`captionkit sweep`: hyperparameter search; each trial is a separate run with other values of some recipe fields."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from optuna import TrialPruned
from optuna.trial import TrialState

from captionkit.data.run_files import BEST, LAST, RECIPE
from captionkit.errors import CaptionkitError, TrainingError, one_line
from captionkit.training.config.recipe import Recipe, change_recipe
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.engine.distributed import refuse_several
from captionkit.training.engine.signals import deferred_interrupts
from captionkit.training.run_setup import prepare
from captionkit.training.tools.search_space import Space, default_space, read_space, short_name, to_tables, to_toml
from captionkit.training.tools.sweep_report import write_report
from captionkit.training.tools.sweep_study import JOURNAL, ActiveTrial, Study
from captionkit.training.trainer import train
from captionkit.utils import atomic_write, paths
from captionkit.utils.console import log_to_console
from captionkit.utils.output_checks import check_output_file, is_journal

_log = logging.getLogger(__name__)
#: file in a sweep's folder with the search space, in the format of --space
SPACE = "space.toml"


@dataclass(frozen=True)
class Sweep:
    """Definition of a sweep: data, folder, recipe, search space and limits."""

    data: Path
    folder: Path
    recipe: Recipe
    space: Space
    #: number of trials to start, over all sessions and processes
    trials: int
    #: Unix time after which no trial is started
    deadline: float


def sweep(
    data: Path,
    folder: Path,
    recipe: Recipe,
    *,
    space: Path | None,
    given: tuple[str, ...] = (),
    trials: int,
    minutes: float | None = None,
    workers: int = 1,
) -> None:
    """Search for recipe values that maximize the CIDEr-D of generated captions of the validation images.

    The same call resumes the sweep in `folder`; several processes may work on it concurrently.

    Args:
        data: the dataset.
        folder: for the trials' runs, the journal, report.html, report.md and best.toml.
        recipe: values of the fields that are not searched.
        space: file with the search space (see `read_space`); None for the default.
        given: fields that were set by flags, and therefore are not searched.
        trials: total number of trials to start; failed ones count.
        minutes: time after which no trial is started.
        workers: number of processes; several use one thread each.

    Raises:
        RecipeError, DatasetError, TrainingError: one line that says what is wrong with recipe, space, data or folder;
            or that no trial was completed.
    """
    refuse_several("sweep")
    if trials < 1 or workers < 1:
        raise TrainingError(f"--trials {trials} --workers {workers}: both are 1 or more")
    _check_folder(folder)
    setup = prepare(recipe, data)  # raises before the first trial if recipe or data are invalid
    steps = EpochSampler(len(setup.train), recipe).steps
    chosen = default_space(recipe, steps, given) if space is None else read_space(space, recipe, given)
    del setup
    deadline = math.inf if minutes is None else time.time() + 60 * minutes
    work = Sweep(data, folder, recipe, chosen, trials, deadline)
    study = _study(work)
    study.agree({"data": str(paths.real(data)), "recipe": recipe.to_dict(), "space": to_tables(chosen)})
    if not (folder / SPACE).exists():  # --space may name this very file, so keep it
        atomic_write.write_text(folder / SPACE, to_toml(chosen))
    _log.info(f"searching {', '.join(chosen)}; of each trial the curves are kept, and the model of the best only")
    try:
        if workers == 1:
            _work(work)
        else:
            _watch(work, workers)
    except KeyboardInterrupt:
        _log.info(f"stopped; the same command goes on with the sweep in {folder}")
        raise
    with study.lock:
        write_report(study, data)
    if study.best() is None:
        raise TrainingError(f"{folder}: no trial was completed; report.md tells why, and the same command goes on")
    _log.info(f"report in {folder / 'report.html'}")


def _check_folder(folder: Path) -> None:
    kind = paths.kind_of(folder, TrainingError)
    if kind not in (None, "folder"):
        raise TrainingError(f"{folder}: is a file; give another --output")
    if kind and not paths.exists(folder / JOURNAL, TrainingError) and any(folder.iterdir()):
        raise TrainingError(f"{folder}: holds something other than a sweep; give another --output")
    check_output_file(folder / JOURNAL, is_journal)


def _study(work: Sweep) -> Study:
    try:
        return Study(work.folder, work.recipe, work.space)
    except OSError as error:
        raise TrainingError(f"{work.folder}: cannot be written ({error.strerror}); give another --output") from None


def _work(work: Sweep, tell: Callable[[str], object] = _log.info) -> None:
    """Run trials until there are enough; `tell` prints the result of each.

    Raises TrainingError if the folder cannot be written, for example because the disk is full.
    """
    study = _study(work)
    try:
        _make_trials(work, study, tell)
    except OSError as error:
        remedy = "free space, and the same command goes on"
        raise TrainingError(f"{work.folder}: cannot be written ({error.strerror}); {remedy}") from None


def _make_trials(work: Sweep, study: Study, tell: Callable[[str], object]) -> None:
    while not _alone() and time.time() < work.deadline and (trial := study.take(work.trials)) is not None:
        try:
            outcome = _try(work, trial)
        except KeyboardInterrupt:
            trial.leave()
            raise
        with study.lock:
            trial.end(*outcome)
            tell(f"trial {trial.number}: {_spelt(*outcome)}; {_tidy(study)}")
            write_report(study, work.data)


def _alone() -> bool:
    """Return whether this is a worker whose parent process was killed."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _try(work: Sweep, trial: ActiveTrial) -> tuple[TrialState, float | None, str]:
    """Start or resume the run of a trial; return its state, its CIDEr-D and, if it failed, the reason."""
    started = time.monotonic()

    def on_eval(row: Mapping[str, Any]) -> None:
        evaluation = math.ceil(row["epoch"] / work.recipe.trainer.eval_every - 1e-6)
        worse = trial.report(evaluation, row, (time.monotonic() - started) / 60)
        if worse and row["epoch"] < recipe.trainer.epochs:  # at the end of its run it counts as complete anyway
            raise TrialPruned
        if _alone():
            raise KeyboardInterrupt

    chosen = ", ".join(f"{short_name(name)} {value}" for name, value in trial.fields.items())
    _log.info(f"trial {trial.number}: {chosen}")
    recipe = work.recipe
    try:
        recipe = change_recipe(work.recipe, trial.fields, f"trial {trial.number}")
        begun = (trial.folder / RECIPE).exists()
        found = train(work.data, trial.folder, None if begun else recipe, resume=begun, on_eval=on_eval, export=False)
    except TrialPruned:
        return TrialState.PRUNED, None, ""
    except Exception as error:  # no failure of a single trial may end the search
        reason = one_line(error)
        known = isinstance(error, CaptionkitError)
        # After the cause comes a remedy for a single run, which refers to files that a sweep removes.
        return TrialState.FAIL, None, reason.partition(";")[0] if known else f"{type(error).__name__}: {reason}"
    return TrialState.COMPLETE, found.best_cider, ""


def _spelt(state: TrialState, cider: float | None, why: str) -> str:
    if state == TrialState.COMPLETE:
        return f"CIDEr-D {cider:.3f}"
    return "ended early, as worse than most" if state == TrialState.PRUNED else f"failed ({why})"


def _tidy(study: Study) -> str:
    """Remove checkpoints of finished trials and all models but the best; return a message that says what is kept."""
    best = study.best()
    for trial in study.ended():
        folder = study.folder_of(trial.number)
        (folder / LAST).unlink(missing_ok=True)
        if best is None or trial.number != best.number:
            shutil.rmtree(folder / BEST, ignore_errors=True)
    if best is None:
        return "no model is kept yet"
    return f"the best is trial {best.number} with {best.value:.3f}, whose model is kept"


def _watch(work: Sweep, workers: int) -> None:
    """Run the trials in `workers` processes of one thread each and wait for them; interrupts are forwarded."""
    context = multiprocessing.get_context("spawn")
    logs = [work.folder / f"worker-{number}.log" for number in range(1, workers + 1)]
    shown = _log.isEnabledFor(logging.INFO)
    crew: list[BaseProcess] = [context.Process(target=_serve, args=(work, log, shown)) for log in logs]
    _log.info(f"{workers} processes; what they say of their trials goes to {logs[0]} and so on")
    for process in crew:
        process.start()
    try:
        with deferred_interrupts() as interrupted:
            forwarded = False
            while any(process.is_alive() for process in crew):
                time.sleep(0.2)
                if interrupted() and not forwarded:
                    forwarded = True
                    for process in crew:
                        _signal(process, signal.SIGINT)
    finally:
        for process in crew:
            process.kill()
            process.join()
    if forwarded:
        raise KeyboardInterrupt
    failed = [process.exitcode for process in crew if process.exitcode]
    if failed and len(failed) < workers:
        _log.info(
            f"{len(failed)} of the {workers} processes failed ({', '.join(map(str, failed))}); the others went on"
        )
    if len(failed) == workers:
        raise TrainingError(
            f"{work.folder}: all processes failed ({', '.join(map(str, failed))}); {logs[0].name} and so on tell why; "
            "the same command goes on"
        )


def _signal(process: BaseProcess, number: signal.Signals) -> None:
    if process.is_alive() and process.pid:
        os.kill(process.pid, number)


def _serve(work: Sweep, log: Path, shown: bool) -> None:
    """Run a worker process, detached from the terminal, so that interrupts reach it only through the main process.

    Its messages go to `log`; the results of trials go to the terminal, if `shown`.
    """
    os.setsid()
    terminal = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    with log_to_console():
        try:
            _work(work, lambda line: print(line, file=terminal, flush=True) if shown else None)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except CaptionkitError as error:
            _log.error("%s", error)
            raise SystemExit(1) from None
