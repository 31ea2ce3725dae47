"""The trainer: runs a recipe and writes the results to a run folder."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from captionkit.data.run_files import BEST, LAST
from captionkit.errors import CaptionkitError, TrainingError
from captionkit.inference.model_folder import CONFIG
from captionkit.inference.word_confidence import WordConfidence
from captionkit.models.captioning_model import CaptioningModel
from captionkit.training.clip_monitor import make_clip_monitor
from captionkit.training.config.recipe import Recipe, weights_fields
from captionkit.training.data.collate import Batch
from captionkit.training.data.loader import batches
from captionkit.training.data.sampler import EpochSampler, shards_of
from captionkit.training.engine.compile import check_compiler, compile_parts, compiler_errors
from captionkit.training.engine.device_errors import explain
from captionkit.training.engine.distributed import make_accelerator, note_scale, restore_scale, share_buffers
from captionkit.training.engine.oom import memory_errors
from captionkit.training.engine.precision import with_precision
from captionkit.training.engine.signals import deferred_interrupts
from captionkit.training.objectives.collapse import detect_collapse
from captionkit.training.objectives.scst import SelfCriticalLoss
from captionkit.training.optim.schedule import rates
from captionkit.training.run.best_model import export_best, save_model
from captionkit.training.run.checkpoint import load_checkpoint, save_checkpoint
from captionkit.training.run.progress import Progress
from captionkit.training.run.run_dir import RunFolder
from captionkit.training.run.trackers import check_trackers
from captionkit.training.run_datasets import build_datasets
from captionkit.training.run_logger import RunLogger
from captionkit.training.run_setup import Setup, prepare
from captionkit.training.train_step import TrainStep
from captionkit.training.validation import Validator, validate
from captionkit.utils.output_checks import check_output_folder

_LOG_EVERY = 20  # steps between two rows of training loss


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a finished run."""

    folder: Path
    best_cider: float
    best_loss: float
    best_step: int
    steps: int


#: callback that receives the row of each evaluation (step, epoch, val_loss, cider, ...); may raise to end the run
OnEval = Callable[[Mapping[str, Any]], None]


def train(
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    resume: bool = False,
    on_eval: OnEval | None = None,
    export: bool = True,
) -> TrainingResult:
    """Train a captioning model on one or several datasets and write everything to the folder `output`.

    With several datasets, the first provides the validation split; `data.weights` says how often each is shown.
    `resume` continues the run in `output` with the recipe stored there. `on_eval` is called after each evaluation.
    `export` adds ONNX graphs to the best model at the end. Raises TrainingError, DatasetError, ModelError or
    RecipeError, with a remedy in the message. An interrupt (Ctrl-C) saves a checkpoint before KeyboardInterrupt is
    raised.
    """
    with closing(RunFolder(Path(output))) as folder:
        if resume:
            recipe = folder.recipe()
        else:
            folder.check_new()
        paths = [Path(one) for one in ([data] if isinstance(data, (str, Path)) else data)]
        if not paths:
            raise TrainingError("no dataset to train on; name at least one")
        check_output_folder(Path(output), inputs=paths)
        recipe = with_precision(recipe or Recipe())
        check_trackers(recipe.trainer.report_to)
        run = _Trainer(recipe, paths, folder, resume, on_eval, export)
        with run.report.session(run.progress):
            return run.go()


class _Trainer:
    """One session of a run: the stretch that one launch of the program trains."""

    def __init__(
        self,
        recipe: Recipe,
        data: Sequence[Path],
        folder: RunFolder,
        resume: bool,
        on_eval: OnEval | None,
        export: bool,
    ) -> None:
        self.recipe, self.folder, self.on_eval, self.export = recipe, folder, on_eval, export
        self.setup = prepare(recipe, data)
        self.accelerator = make_accelerator(
            recipe.trainer.precision, self.setup.model, unfreezing=recipe.encoder.unfreeze_epochs > 0
        )
        check_compiler(recipe.trainer, self.accelerator.device)
        self.clip = make_clip_monitor(recipe, self.setup.val, str(self.accelerator.device))
        self.report = RunLogger(folder, self.setup, recipe, self.accelerator)
        self.accelerator.wait_for_everyone()  # all ranks must see that the folder is free before it is opened
        if self.accelerator.is_main_process:
            folder.open(recipe, resume=resume)
        self.setup.model.to(self.accelerator.device)
        with self.report.session_log.timer.section("features"):
            train_set, self.val_set = (
                build_datasets(self.setup, recipe, self.accelerator, part, self.report.bar) for part in ("train", "val")
            )
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        shards = shards_of(train_set.examples)
        counts = [len(source.train) for source in self.setup.sources]
        self.plan = EpochSampler(counts, recipe, processes=processes, rank=rank, shards=shards)
        critic = None
        if recipe.loss.objective == "self-critical":
            critic = SelfCriticalLoss(train_set, self.setup.tokenizer, recipe)
        self.train_step = TrainStep(self.setup.model, train_set, self.plan, recipe, self.accelerator, critic)
        self.validator = Validator(self.setup.val)
        self.progress = Progress()
        self.fingerprint = _fingerprint(recipe, self.setup, "" if train_set.soft is None else train_set.soft.key)
        begun = resume and (folder.path / LAST).exists()
        if begun:
            parts, optimizer = self.train_step.parts, self.train_step.optimizer
            self.progress = load_checkpoint(folder.path / LAST, self.fingerprint, parts, optimizer)
            restore_scale(self.accelerator, self.progress)
            self._check_best()
        #: the step of the last checkpoint
        self.kept = self.progress.step
        folder.truncate(self.progress.step if begun else -1)
        if recipe.trainer.compile:
            compile_parts(self.setup.model)

    def _check_best(self) -> None:
        """Reset the best scores if the best model was deleted, so that the next evaluation saves one in any case."""
        progress, best = self.progress, self.folder.path / BEST
        if math.isfinite(progress.best_cider) and not (best / CONFIG).exists():
            if progress.step == self.plan.steps:
                raise TrainingError(f"{best}: missing, and no step is left to make it again; put it back")
            self.report.info(f"{best}: missing; the next evaluation writes it again")
            progress.best_cider, progress.best_loss, progress.best_step = float("-inf"), float("inf"), 0
            progress.best_clipscore, progress.stale = 0.0, 0

    def go(self) -> TrainingResult:
        """Train until all epochs are done, early stopping, collapse or a failure."""
        unfreezing = self.train_step.unfreezing.describe(self.plan.steps)
        self.report.begin(self.plan, self.progress, unfreezing, done=self._finished())
        first, last = self.progress.step, self.plan.steps
        try:
            self._train(first, last)
        except RuntimeError as error:
            # Save nothing: data read from a failed device cannot be trusted.
            if what := explain(error):
                raise TrainingError(f"{what} after step {self.progress.step}; {self._resume_hint()}") from error
            raise
        except CaptionkitError as error:
            if isinstance(error, TrainingError):
                raise
            raise TrainingError(f"{error}; {self._resume_hint()}") from None  # a file that cannot be written
        return self._end()

    def _train(self, first: int, last: int) -> None:
        workers, pin = self.recipe.data.num_workers, self.accelerator.device.type == "cuda"
        with (
            memory_errors(self.progress),
            compiler_errors(),
            deferred_interrupts() as interrupted,
            closing(self.report.bar(range(first, last), last, "training", first)) as steps,
            closing(batches(self.train_step.dataset, self.plan, first, workers, pin=pin)) as images,
        ):
            self._run_steps(steps, self.report.session_log.timer.waiting(images, "data"), interrupted)

    def _resume_hint(self) -> str:
        return f"to go on after step {self.kept}: {self.report.command(resume=True)}"

    def _run_steps(self, steps: Iterable[int], images: Iterator[Batch], interrupted: Callable[[], bool]) -> None:
        progress, before, started = self.progress, self.progress.seconds, time.monotonic()
        evaluate_every = max(1, round(self.recipe.trainer.eval_every * self.plan.steps_per_epoch))
        if self.recipe.trainer.init and not progress.start:
            self._evaluate()  # so that the saved model is never worse than the initial one
            self._save()
        saved = time.monotonic()
        for step in steps:
            if self._finished():
                break
            self._step(step, images)
            progress.step = step + 1
            progress.seconds = before + time.monotonic() - started
            if progress.step % _LOG_EVERY == 0:
                self.report.log_training(self._where(), rates(self.train_step.optimizer))
            due = progress.step % evaluate_every == 0 or progress.step == self.plan.steps
            if due:
                self._evaluate()
            stop = self._any_rank(interrupted())
            if due or stop or time.monotonic() - saved >= self.recipe.trainer.checkpoint_every:
                self._save()
                saved = time.monotonic()
            if stop:
                self.report.info(f"stopped after step {progress.step}; to go on: {self.report.command(resume=True)}")
                raise KeyboardInterrupt

    def _any_rank(self, so: bool) -> bool:
        """Return whether `so` holds in any process; all processes must stop after the same step."""
        if self.accelerator.num_processes == 1:
            return so
        return bool(self.accelerator.reduce(torch.tensor(float(so), device=self.accelerator.device)).item())

    def _finished(self) -> bool:
        return bool(self.progress.collapse) or 0 < self.recipe.trainer.patience <= self.progress.stale

    def _where(self) -> dict[str, Any]:
        return {"step": self.progress.step, "epoch": self.progress.step / self.plan.steps_per_epoch}

    def _step(self, step: int, images: Iterator[Batch]) -> None:
        with self.report.session_log.timer.section("steps"), self._explain_unreadable():
            metrics = self.train_step.step(step, images)
        if metrics is None:
            raise self._not_finite(f"the loss of step {step + 1}")
        self.report.add_step(metrics)

    def _not_finite(self, what: str) -> TrainingError:
        last, best = self.folder.path / LAST, self.folder.path / BEST
        kept = f"; the run as it was is kept in {last}" if last.exists() else ""
        start = f" from --init {best}" if best.exists() else ""
        return TrainingError(
            f"{what} is not finite{kept}; start again{start} with a lower optimizer.lr_decoder or optimizer.lr_encoder"
        )

    def _evaluate(self) -> None:
        progress, model = self.progress, self.train_step.averaged_model
        share_buffers(self.accelerator, model)
        with self.report.session_log.timer.section("evaluation"), self._explain_unreadable():
            found = validate(model, self.val_set, self.setup.tokenizer, self.validator, self.accelerator, self.clip)
        self.train_step.broken |= found.broken
        self._check_readable(found.broken)
        if not math.isfinite(found.loss):
            raise self._not_finite(f"the validation loss after step {progress.step}")
        cider = found.scores["cider"]
        progress.start = progress.start or found.scores
        if self.train_step.critic is not None:
            progress.collapse = detect_collapse(progress.start, found.scores, self.validator.words)
        clipscore = found.scores.get("clipscore", 0.0)
        now = self._ranked(cider, found.loss, clipscore)
        before = self._ranked(progress.best_cider, progress.best_loss, progress.best_clipscore)
        better = not progress.collapse and now > before
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best_cider, progress.best_loss, progress.best_step = cider, found.loss, progress.step
            progress.best_clipscore = clipscore
            if self.accelerator.is_main_process:
                self._keep(model, found.calibration)
        self.report.log_evaluation(self._where(), found, better, progress)
        if self.on_eval is not None:
            self.on_eval(self.folder.rows[-1])

    def _ranked(self, cider: float, loss: float, clipscore: float) -> tuple[float, ...]:
        """Return the scores by which models are compared: that of `trainer.monitor`, then the others."""
        by = {"cider": (cider, -loss), "loss": (-loss, cider), "clipscore": (clipscore, cider, -loss)}
        return by[self.recipe.trainer.monitor]

    def _keep(self, model: CaptioningModel, calibration: WordConfidence) -> None:
        facts, half = {**self._facts(), "recipe": self.recipe.to_dict()}, self.recipe.trainer.save_dtype == "float16"
        tokenizer, preprocessing = self.setup.tokenizer, self.setup.preprocessing
        save_model(self.folder.path / BEST, model, tokenizer, preprocessing, facts, calibration, half=half)

    def _facts(self) -> dict[str, Any]:
        train, val, progress = self.setup.train, self.setup.val, self.progress
        return {
            "command": self.report.command(),
            "data": self._data(),
            "images": {"train": len(train), "val": len(val)},
            "val_loss": progress.best_loss,
            "val_cider": progress.best_cider,
            **({"val_clipscore": progress.best_clipscore} if self.clip else {}),
            **self._where(),
            "minutes": round(progress.seconds / 60, 1),
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
        }

    def _data(self) -> dict[str, Any]:
        train, sources, shown = self.setup.train, self.setup.sources, self.plan.shown
        mixed = [
            {"name": s.train.name, "fingerprint": s.train.fingerprint(), "images": len(s.train), "an_epoch": count}
            for s, count in zip(sources, shown, strict=True)
        ]
        data = {"name": train.name, "fingerprint": train.fingerprint()}
        return {**data, "mixed": mixed} if len(sources) > 1 else data

    @contextmanager
    def _explain_unreadable(self) -> Iterator[None]:
        """If training fails because images cannot be read, check whether the disk is gone and report that instead."""
        try:
            yield
        except TrainingError as error:
            self._check_readable([str(error)])
            raise

    def _check_readable(self, broken: Collection[str] = ()) -> bool:
        """Raise TrainingError if images that were readable before no longer are; `broken` are new failures.

        Returns whether a checkpoint may be saved: not if every image tried so far was unreadable.
        """
        if reason := self.train_step.vanished(broken):
            raise TrainingError(
                f"images that were read before cannot be read any more ({reason}); {self._resume_hint()}"
            )
        return not self.train_step.blind

    def _save(self) -> None:
        # Only the main process writes, without a barrier: clocks differ, so ranks may disagree on when to save.
        if self.accelerator.is_main_process and self._check_readable():
            note_scale(self.accelerator, self.progress)
            self.folder.flush()
            path, parts = self.folder.path / LAST, self.train_step.parts
            with self.report.session_log.timer.section("checkpoints"):
                save_checkpoint(path, self.progress, self.fingerprint, parts, self.train_step.optimizer)
            self.report.session_log.save(self.progress)
        self.kept = self.progress.step

    def _end(self) -> TrainingResult:
        progress, best, log = self.progress, self.folder.path / BEST, self.report.info
        why = progress.collapse or ("no better for a while" if self._finished() else "all epochs done")
        scores = f"CIDEr-D {progress.best_cider:.3f}, loss {progress.best_loss:.3f} nats/word"
        if self.clip:
            scores = f"CLIPScore {progress.best_clipscore:.3f}, {scores}"
        log(f"{why}: best on validation at step {progress.best_step}, {scores}")
        left_out = sorted(set().union(*gather_object([self.train_step.broken])))
        for reason in left_out:
            log(f"left out: {reason}")
        if self.accelerator.is_main_process:
            with self.report.session_log.timer.section("export"):
                half = self.recipe.trainer.save_dtype == "float16"
                more = f"; {export_best(best, self.setup.val, half=half)}" if self.export else ""
                log(f"model in {best}{more}")
            self.report.end(progress, why, left_out)
        best_scores = progress.best_cider, progress.best_loss
        return TrainingResult(self.folder.path, *best_scores, progress.best_step, progress.step)


def _fingerprint(recipe: Recipe, setup: Setup, teachers: str) -> str:
    """Hash everything that affects the weights, and nothing else; a checkpoint can only be resumed with the same."""
    sources = [source.train.fingerprint() for source in setup.sources]
    facts = [weights_fields(recipe), sources, setup.val.fingerprint(), setup.tokenizer.to_json(), teachers]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
