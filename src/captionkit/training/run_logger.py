"""Logging of a run: messages and a progress bar for whoever asks; metrics, curves, samples and report in the folder."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from captionkit.data.run_files import SAMPLES
from captionkit.errors import one_line
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.report import RunData, write_captions, write_report
from captionkit.training.run.progress import Progress
from captionkit.training.run.run_dir import RunFolder
from captionkit.training.run.session_log import SessionLog
from captionkit.training.run.sessions import DONE
from captionkit.training.run_setup import Setup
from captionkit.training.step_metrics import StepMetrics
from captionkit.training.validation import Validation, sample_cards, samples_page
from captionkit.utils import atomic_write
from captionkit.utils.progress import progress_bar
from captionkit.viz.page import Card

_log = logging.getLogger(__name__)
#: labels of training figures in the log line, and their names in metrics.jsonl
_FIGURES = (("train", "loss"), ("reward", "reward"))


class RunLogger:
    """Logs a run from its main process; the other processes are silent."""

    def __init__(self, folder: RunFolder, setup: Setup, recipe: Recipe, accelerator: Accelerator) -> None:
        self.folder, self.setup, self.recipe = folder, setup, recipe
        self.accelerator, self.main = accelerator, accelerator.is_main_process
        self._metrics = StepMetrics()
        self._since = time.monotonic()
        self.session_log = SessionLog(folder.path, setup)
        self._cards: Sequence[Card] = ()

    def info(self, line: str) -> None:
        """Log a line."""
        if self.main:
            _log.info("%s", line)

    def bar(self, items: Iterable, total: int, what: str, done: int = 0) -> Generator:
        """Yield from `items` with a progress bar."""
        return progress_bar(items, total, what, done=done) if self.main else (item for item in items)

    def command(self, *, resume: bool = False) -> str:
        """Return the command line that reproduces this run; every non-default field is given as a flag."""
        flags = ["--resume"] if resume else self.recipe.to_flags()
        data = [str(source.path) for source in self.setup.sources]
        return shlex.join(["captionkit", "train", *data, "--output", str(self.folder.path), *flags])

    def begin(self, plan: EpochSampler, progress: Progress, unfreezing: str, *, done: bool) -> None:
        """Log a summary of data and model, and start the session unless the run is `done` already."""
        setup = self.setup
        total, trained = 0, 0
        for parameter in setup.model.parameters():
            total += parameter.numel()
            trained += parameter.numel() * parameter.requires_grad
        self.info(
            f"{len(setup.train)} training and {len(setup.val)} validation images, {len(setup.tokenizer)} tokens, "
            f"{trained / 1e6:.2f} of {total / 1e6:.2f} M parameters trained, {plan.steps_per_epoch} steps an epoch"
            f"{f' of {plan.passes} passes' if plan.passes > 1 else ''}, on {self.accelerator.device}"
        )
        for note in (*setup.notes, unfreezing):
            if note:
                self.info(note)
        for source, shown in zip(setup.sources, plan.shown, strict=True):
            if len(setup.sources) > 1 or shown != len(source.train):
                self.info(f"{source.path}: {len(source.train)} training images, {shown} shown in an epoch")
            if classes := {example.label for example in source.train if example.label}:
                self.info(f"{source.path}: names of {len(classes)} classes are learned")
            if source.problems:
                first = source.problems[0]
                self.info(
                    f"problems in the data: {len(source.problems)}, the first {first.kind}, {first.where} "
                    f"({first.detail}); `{shlex.join(['captionkit', 'inspect', str(source.path)])}` names them all"
                )
        if progress.step:
            self.info(f"resumed after step {progress.step} of {plan.steps}")
        if self.main:
            session_log = self.session_log
            session_log.open(steps_per_epoch=plan.steps_per_epoch)
            if progress.step < plan.steps and not done:
                command = self.command(resume=bool(session_log.sessions or progress.step))
                trackers = self.folder.track(self.recipe, session_log.known)
                session_log.begin(command, progress, self.accelerator, trackers)
        self._since = time.monotonic()

    def add_step(self, step: StepMetrics) -> None:
        """Add a step's metrics to the next training row."""
        self._metrics += step

    @contextmanager
    def session(self, progress: Progress) -> Iterator[None]:
        """If the block raises, record how the session ended and write a report of the results so far."""
        try:
            yield
        except BaseException as error:
            if self.main and self.session_log.works:
                stopped = isinstance(error, KeyboardInterrupt)
                self.session_log.end("interrupted" if stopped else f"failed: {one_line(error)}", progress)
                self._write(whole=False)
            raise

    def end(self, progress: Progress, why: str, broken: Iterable[str]) -> None:
        """Record that the run is done, and why, and write its report."""
        session_log = self.session_log
        if not session_log.sessions or (not session_log.works and session_log.sessions[-1].done):
            return  # the run was already done, so nothing has changed
        session_log.save(progress, broken)
        session_log.sessions[-1].end = end = f"{DONE}{why}"
        self._write(whole=True)
        session_log.end(end, progress)  # after the report, so that resuming a run killed before this writes the report

    def _write(self, *, whole: bool) -> None:
        """Write report.html and report.md of the results so far, if the recipe says so.

        A failure is logged and does not end the run.
        """
        if not self.recipe.trainer.report:
            return
        folder, session_log = self.folder, self.session_log
        run_data = RunData(
            folder.path,
            self.recipe,
            folder.rows,
            session_log.sessions,
            val=self.setup.val,
            shown=self._cards,
            whole=whole and any(row["kind"] == "eval" for row in folder.rows),
            live=not session_log.sessions[-1].end,
        )
        try:
            page = write_report(run_data)
        except Exception as error:
            self.info(
                f"no report ({one_line(error)}); `{shlex.join(['captionkit', 'report', str(folder.path)])}` tries again"
            )
            return
        if whole:
            self.info(f"report: {page}")

    def log_training(self, where: dict[str, Any], rates: dict[str, float]) -> None:
        """Record a training row: metrics and speed since the last such row, over all processes."""
        metrics = sum(gather_object([self._metrics]), StepMetrics())
        speed = metrics.words / (time.monotonic() - self._since)
        self.folder.record({"kind": "train", **where, **metrics.row(), **rates, "tokens_per_second": speed})
        self._metrics, self._since = StepMetrics(), time.monotonic()

    def log_evaluation(self, where: dict[str, Any], found: Validation, better: bool, progress: Progress) -> None:
        """Record an evaluation row; update curves.png, samples.html, captions.json, the session log and the report."""
        paused = time.monotonic()
        if better and self.main:
            examples = self.setup.val
            write_captions(self.folder.path, {examples[place].id: said for place, said in sorted(found.said.items())})
        self.folder.record({"kind": "eval", **where, "val_loss": found.loss, **found.scores, "best": better})
        if self.main:
            with self.session_log.timer.section("report"):
                self._show(where, found, better, progress.seconds)
                self.session_log.save(progress, found.broken)
                self._write(whole=False)
        self._since += time.monotonic() - paused

    def _show(self, where: dict[str, Any], found: Validation, better: bool, seconds: float) -> None:
        setup, folder = self.setup, self.folder
        shown = setup.val.subset(range(min(self.recipe.trainer.log_samples, len(setup.val))))
        cards = sample_cards(shown, found.said)
        atomic_write.write_text(folder.path / SAMPLES, samples_page(cards, where["step"], found))
        self._cards = cards
        if self.recipe.trainer.report:
            folder.draw()
        seen = found.scores.get("clipscore")
        said = next((card.caption for card in cards if card.caption), "")
        self.info(
            f"{'*' if better else ' '} epoch {where['epoch']:6.2f}  step {where['step']:6d}  "
            f"{self._training_figure()}  val {found.loss:.3f} nats/word  CIDEr-D {found.scores['cider']:.3f}  "
            f"{'' if seen is None else f'CLIPScore {seen:.3f}  '}"
            f"{seconds / 60:6.1f} min  | {said}"
        )

    def _training_figure(self) -> str:
        """Return the latest training figure: the loss, or the reward in self-critical training."""
        rows = (row for row in reversed(self.folder.rows) if row["kind"] == "train")
        now = self._metrics.row() if self._metrics.words else next(rows, {})
        figure = next((f"{name} {now[key]:.3f}" for name, key in _FIGURES if key in now), "")
        return figure or "as it began"
