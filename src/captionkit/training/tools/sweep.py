"""`captionkit sweep`: trials of a recipe with other values of some fields, each a run of its own."""

from __future__ import annotations

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
from optuna.trial import TrialState

from captionkit.errors import CaptionkitError, TrainingError
from captionkit.training.config.recipe import Recipe, change_recipe
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.engine.distributed import refuse_several
from captionkit.training.engine.signals import deferred_interrupts
from captionkit.training.factory import prepare
from captionkit.training.run.run_dir import BEST, LAST, RECIPE
from captionkit.training.tools.search_space import Space, default_space, read_space, short_name, to_tables, to_toml
from captionkit.training.tools.sweep_report import write_report
from captionkit.training.tools.sweep_study import JOURNAL, Study, TrialInHand
from captionkit.training.trainer import train
from captionkit.utils import files, paths
from captionkit.utils.outputs import check_file, is_journal
from captionkit.utils.progress import say

#: in a sweep's folder: what is searched, as a file for --space
SPACE = "space.toml"


@dataclass(frozen=True)
class Sweep:
    """What is searched, where, and for how long."""

    data: Path
    folder: Path
    recipe: Recipe
    space: Space
    #: to begin, over all sittings and processes
    trials: int
    #: seconds since the epoch after which none is begun
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
    """Search for the values of a recipe's fields whose runs' captions of the validation images score best (CIDEr-D).

    The same call goes on with the sweep that is in `folder`; several may work on it at once.

    Args:
        data: the dataset.
        folder: for the trials' runs, the journal, report.html, report.md and best.toml.
        recipe: the fixed part.
        space: a file of what is searched (see `read_space`); None for the usual.
        given: fields that were given as flags, and therefore are not searched.
        trials: to begin in all; failed ones count.
        minutes: after which none is begun.
        workers: processes, of one thread each if there are several.

    Raises:
        RecipeError, DatasetError, TrainingError: what is wrong with recipe, space, data or folder, in one line; or that
            all trials failed.
    """
    refuse_several("sweep")
    if trials < 1 or workers < 1:
        raise TrainingError(f"--trials {trials} --workers {workers}: both are 1 or more")
    _check_folder(folder)
    setup = prepare(recipe, data)  # so that what is wrong with them is known before the first trial
    steps = EpochSampler(len(setup.train), recipe).steps
    chosen = default_space(recipe, steps, given) if space is None else read_space(space, recipe, given)
    del setup
    deadline = math.inf if minutes is None else time.time() + 60 * minutes
    work = Sweep(data, folder, recipe, chosen, trials, deadline)
    study = _study(work)
    study.agree({"data": str(paths.real(data)), "recipe": recipe.to_dict(), "space": to_tables(chosen)})
    if not (folder / SPACE).exists():  # what --space names may be that very file, in its writer's own words
        files.write_text(folder / SPACE, to_toml(chosen))
    say(f"searching {', '.join(chosen)}; of each trial the curves are kept, and the model of the best only")
    try:
        if workers == 1:
            _work(work)
        else:
            _watch(work, workers)
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on with the sweep in {folder}")
        raise
    with study.lock:
        write_report(study, data)
    if study.best() is None:
        raise TrainingError(f"{folder}: no trial was completed; report.md tells why, and the same command goes on")
    say(f"report in {folder / 'report.html'}")


def _check_folder(folder: Path) -> None:
    kind = paths.kind_of(folder, TrainingError)
    if kind not in (None, "folder"):
        raise TrainingError(f"{folder}: is a file; give another --output")
    if kind and not paths.exists(folder / JOURNAL, TrainingError) and any(folder.iterdir()):
        raise TrainingError(f"{folder}: holds something other than a sweep; give another --output")
    check_file(folder / JOURNAL, is_journal)


def _study(work: Sweep) -> Study:
    try:
        return Study(work.folder, work.recipe, work.space)
    except OSError as error:
        raise TrainingError(f"{work.folder}: cannot be written ({error.strerror}); give another --output") from None


class _Ended(Exception):  # noqa: N818  (no error: the trial ends early)
    """Raised at an evaluation by which a trial ends early."""


def _work(work: Sweep, tell: Callable[[str], object] = say) -> None:
    """Make trials until there are enough; `tell` what became of each. Raises TrainingError where the disk is full."""
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
    """Whether this is a worker whose sweep was killed."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _try(work: Sweep, trial: TrialInHand) -> tuple[TrialState, float | None, str]:
    """Make the run of a trial, or go on with it; its state, CIDEr-D and, if it failed, why."""
    started = time.monotonic()

    def watcher(row: Mapping[str, Any]) -> None:
        evaluation = math.ceil(row["epoch"] / work.recipe.run.eval_every - 1e-6)
        worse = trial.report(evaluation, row, (time.monotonic() - started) / 60)
        if worse and row["epoch"] < recipe.optimizer.epochs:  # at its end it is complete all the same
            raise _Ended
        if _alone():
            raise KeyboardInterrupt

    chosen = ", ".join(f"{short_name(name)} {value}" for name, value in trial.fields.items())
    say(f"trial {trial.number}: {chosen}")
    recipe = work.recipe
    try:
        recipe = change_recipe(work.recipe, trial.fields, f"trial {trial.number}")
        begun = (trial.folder / RECIPE).exists()
        found = train(work.data, trial.folder, None if begun else recipe, resume=begun, watcher=watcher, export=False)
    except _Ended:
        return TrialState.PRUNED, None, ""
    except Exception as error:  # one choice of values that goes wrong must not end the search, whatever goes wrong
        reason = (str(error).strip().splitlines() or [""])[0]
        known = isinstance(error, CaptionkitError)
        # What follows the cause is a way out of a single run, which speaks of files that are tidied away.
        return TrialState.FAIL, None, reason.partition(";")[0] if known else f"{type(error).__name__}: {reason}"
    return TrialState.COMPLETE, found.best_cider, ""


def _spelt(state: TrialState, cider: float | None, why: str) -> str:
    if state == TrialState.COMPLETE:
        return f"CIDEr-D {cider:.3f}"
    return "ended early, as worse than most" if state == TrialState.PRUNED else f"failed ({why})"


def _tidy(study: Study) -> str:
    """Remove the checkpoints of ended trials and all models but the best; says what is kept."""
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
    """Let processes of one thread each make the trials, and wait for them; an interrupt is passed on."""
    context = multiprocessing.get_context("spawn")
    logs = [work.folder / f"worker-{number}.log" for number in range(1, workers + 1)]
    crew: list[BaseProcess] = [context.Process(target=_serve, args=(work, log)) for log in logs]
    say(f"{workers} processes; what they say of their trials goes to {logs[0]} and so on")
    for process in crew:
        process.start()
    try:
        with deferred_interrupts() as interrupted:
            told = False
            while any(process.is_alive() for process in crew):
                time.sleep(0.2)
                if interrupted() and not told:
                    told = True
                    for process in crew:
                        _signal(process, signal.SIGINT)
    finally:
        for process in crew:
            process.kill()
            process.join()
    if told:
        raise KeyboardInterrupt
    failed = [process.exitcode for process in crew if process.exitcode]
    if failed and len(failed) < workers:
        say(f"{len(failed)} of the {workers} processes failed ({', '.join(map(str, failed))}); the others went on")
    if len(failed) == workers:
        raise TrainingError(
            f"{work.folder}: all processes failed ({', '.join(map(str, failed))}); {logs[0].name} and so on tell why; "
            "the same command goes on"
        )


def _signal(process: BaseProcess, number: signal.Signals) -> None:
    if process.is_alive() and process.pid:
        os.kill(process.pid, number)


def _serve(work: Sweep, log: Path) -> None:
    """A worker process: away from the terminal, so that its interrupts come by the sweep alone."""
    os.setsid()
    terminal = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    try:
        _work(work, lambda line: print(line, file=terminal, flush=True))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except CaptionkitError as error:
        say(f"captionkit: {error}")
        raise SystemExit(1) from None
