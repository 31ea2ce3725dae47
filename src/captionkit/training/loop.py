"""The training loop: from a recipe to a run folder."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from captionkit.errors import TrainingError
from captionkit.training.batches import Batch, Plan, batches
from captionkit.training.checkpoints import Progress, load_checkpoint, save_checkpoint
from captionkit.training.evaluation import Judge, validate
from captionkit.training.features import Shown, cached_features
from captionkit.training.interrupt import deferred_interrupts
from captionkit.training.keep import export_kept, keep_model
from captionkit.training.learner import Learner
from captionkit.training.optimizer import rates
from captionkit.training.processes import make_accelerator, note_scale, restore_scale
from captionkit.training.recipe import Recipe
from captionkit.training.report import Report
from captionkit.training.run import BEST, LAST, RunFolder
from captionkit.training.setup import Setup, prepare
from captionkit.training.teaching import Teaching

_LOG_EVERY = 20  # steps between two rows of training loss


@dataclass(frozen=True)
class Result:
    """What a finished run answers."""

    folder: Path
    best_cider: float
    best_loss: float
    best_step: int
    steps: int


#: is told the row of each evaluation (step, epoch, val_loss, cider, ...); may raise, to end the run there
Watcher = Callable[[Mapping[str, Any]], None]


def train(
    data: str | Path,
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    resume: bool = False,
    watcher: Watcher | None = None,
    export: bool = True,
) -> Result:
    """Train a captioner on the dataset at `data` and keep everything in the folder `output`.

    `resume` takes up the run in `output` with the recipe stored there. Raises TrainingError, DatasetError, ModelError
    or RecipeError with what to do about it. An interrupt (Ctrl-C) saves the run before KeyboardInterrupt is raised.
    `export` adds the ONNX graphs to the kept model at the end.
    """
    with closing(RunFolder(Path(output))) as folder:
        if resume:
            recipe = folder.recipe()
        else:
            folder.check_new()
        return _Run(recipe or Recipe(), Path(data), folder, resume, watcher, export).go()


class _Run:
    """One sitting of a run."""

    def __init__(
        self, recipe: Recipe, data: Path, folder: RunFolder, resume: bool, watcher: Watcher | None, export: bool
    ) -> None:
        self.recipe, self.folder, self.watcher, self.export = recipe, folder, watcher, export
        self.setup = prepare(recipe, data)
        self.accelerator = make_accelerator(recipe.run.precision, self.setup.model)
        self.report = Report(folder, self.setup, recipe, data, self.accelerator)
        self.accelerator.wait_for_everyone()  # until all have seen that the folder is free
        if self.accelerator.is_main_process:
            folder.open(recipe)
        self.setup.model.to(self.accelerator.device)
        train_set, self.val_set = (
            teaching_of(self.setup, recipe, self.accelerator, part, self.report.bar) for part in ("train", "val")
        )
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.plan = Plan(len(train_set), recipe, processes=processes, rank=rank)
        self.learner = Learner(self.setup.model, train_set, self.plan, recipe, self.accelerator)
        self.judge = Judge(self.setup.val)
        self.progress = Progress()
        self.fingerprint = _fingerprint(recipe, self.setup)
        if resume and (folder.path / LAST).exists():
            parts, optimizer = self.learner.parts, self.learner.optimizer
            self.progress = load_checkpoint(folder.path / LAST, self.fingerprint, parts, optimizer)
            restore_scale(self.accelerator, self.progress)
        folder.rewind(self.progress.step)

    def go(self) -> Result:
        """Train to the end, to patience's end or to a failure."""
        self.report.begin(self.plan, self.progress)
        first, last = self.progress.step, self.plan.steps
        try:
            with (
                deferred_interrupts() as interrupted,
                closing(self.report.bar(range(first, last), last, "training", first)) as steps,
                closing(batches(self.learner.teaching, self.plan, first, self.recipe.run.workers)) as pictures,
            ):
                self._go_on(steps, pictures, interrupted)
        except torch.OutOfMemoryError:
            remedy = "start anew with a larger optimizer.accumulate or a smaller optimizer.batch_size"
            raise TrainingError(f"out of memory after step {self.progress.step}; {remedy}") from None
        return self._end()

    def _go_on(self, steps: Iterable[int], pictures: Iterator[Batch], interrupted: Callable[[], bool]) -> None:
        progress, before, started = self.progress, self.progress.seconds, time.monotonic()
        evaluate_every = max(1, round(self.recipe.run.eval_every * self.plan.steps_per_epoch))
        saved = started
        for step in steps:
            if self._finished():
                break
            self._learn(step, pictures)
            progress.step = step + 1
            progress.seconds = before + time.monotonic() - started
            if progress.step % _LOG_EVERY == 0:
                self.report.trained(self._where(), rates(self.learner.optimizer))
            due = progress.step % evaluate_every == 0 or progress.step == self.plan.steps
            if due:
                self._evaluate()
            if due or interrupted() or time.monotonic() - saved >= self.recipe.run.checkpoint_every:
                self._save()
                saved = time.monotonic()
            if interrupted():
                self.report.say(f"stopped after step {progress.step}; to go on: {self.report.command(resume=True)}")
                raise KeyboardInterrupt

    def _finished(self) -> bool:
        return 0 < self.recipe.run.patience <= self.progress.stale

    def _where(self) -> dict[str, Any]:
        return {"step": self.progress.step, "epoch": self.progress.step / self.plan.steps_per_epoch}

    def _learn(self, step: int, pictures: Iterator[Batch]) -> None:
        learnt = self.learner.step(step, pictures)
        if learnt is None:
            raise self._not_finite(f"the loss of step {step + 1}")
        self.report.learnt(*learnt)

    def _not_finite(self, what: str) -> TrainingError:
        last, best = self.folder.path / LAST, self.folder.path / BEST
        kept = f"; the run as it was is kept in {last}" if last.exists() else ""
        start = f" from --init {best}" if best.exists() else ""
        return TrainingError(
            f"{what} is not finite{kept}; start anew{start} with a lower optimizer.lr_decoder or optimizer.lr_encoder"
        )

    def _evaluate(self) -> None:
        progress, model = self.progress, self.learner.average.module
        found = validate(model, self.val_set, self.setup.text, self.judge, self.accelerator)
        self.learner.broken |= found.broken
        if not math.isfinite(found.loss):
            raise self._not_finite(f"the validation loss after step {progress.step}")
        cider = found.scores["cider"]
        better = (cider, -found.loss) > (progress.best_cider, -progress.best_loss)
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best_cider, progress.best_loss, progress.best_step = cider, found.loss, progress.step
            if self.accelerator.is_main_process:
                keep_model(self.folder.path / BEST, model, self.setup, self.recipe, self._facts(), found.calibration)
        self.report.evaluated(self._where(), found, better, progress.seconds)
        if self.watcher is not None:
            self.watcher(self.folder.rows[-1])

    def _facts(self) -> dict[str, Any]:
        train, val, progress = self.setup.train, self.setup.val, self.progress
        return {
            "command": self.report.command(),
            "data": {"name": train.name, "fingerprint": train.fingerprint()},
            "pictures": {"train": len(train), "val": len(val)},
            "val_loss": progress.best_loss,
            "val_cider": progress.best_cider,
            **self._where(),
            "minutes": round(progress.seconds / 60, 1),
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
        }

    def _save(self) -> None:
        # Only the main process writes, and none waits for it: clocks differ, so each may think that it is time.
        if self.accelerator.is_main_process:
            note_scale(self.accelerator, self.progress)
            self.folder.flush()
            path, parts = self.folder.path / LAST, self.learner.parts
            save_checkpoint(path, self.progress, self.fingerprint, parts, self.learner.optimizer)

    def _end(self) -> Result:
        progress, best, say = self.progress, self.folder.path / BEST, self.report.say
        why = "no better for a while" if self._finished() else "all epochs done"
        scores = f"CIDEr-D {progress.best_cider:.3f}, loss {progress.best_loss:.3f} nats/word"
        say(f"{why}: best on validation at step {progress.best_step}, {scores}")
        for reason in sorted(set().union(*gather_object([self.learner.broken]))):
            say(f"left out: {reason}")
        if self.accelerator.is_main_process:
            half = self.recipe.run.half_weights
            more = f"; {export_kept(best, self.setup.val, half=half)}" if self.export else ""
            say(f"model in {best}{more}")
        return Result(self.folder.path, progress.best_cider, progress.best_loss, progress.best_step, progress.step)


def teaching_of(setup: Setup, recipe: Recipe, accelerator: Accelerator, part: str, shown: Shown) -> Teaching:
    """What is taught ("train") or evaluated ("val"): features, computed once, where a frozen encoder allows it."""
    training = part == "train"
    captions = setup.train if training else setup.val
    cached, broken = None, {}
    if setup.model.encoder.frozen and (recipe.image.crop >= 1 or not training):
        # One process computes; the others then find the file.
        with accelerator.main_process_first():
            cached, broken = cached_features(
                setup.model.encoder.eval(),
                captions,
                setup.preprocessing,
                flips=training and recipe.image.flip,
                precision=recipe.run.precision,
                shown=shown,
            )
    return Teaching(captions, setup.text, recipe, setup.preprocessing, augment=training, features=cached, broken=broken)


def _fingerprint(recipe: Recipe, setup: Setup) -> str:
    """What a checkpoint belongs to: everything that changes the weights, and nothing that does not."""
    values = asdict(recipe)
    for name in ("workers", "checkpoint_every", "samples", "half_weights"):
        del values["run"][name]
    facts = [values, setup.train.fingerprint(), setup.val.fingerprint(), setup.text.to_json()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
