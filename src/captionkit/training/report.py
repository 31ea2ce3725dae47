"""What a run says of itself: lines and a bar for who watches, rows, curves and samples for who comes later."""

from __future__ import annotations

import shlex
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from captionkit import files
from captionkit.progress import say, track
from captionkit.training.batches import Plan
from captionkit.training.checkpoints import Progress
from captionkit.training.evaluation import Validation, sample_cards, samples_page
from captionkit.training.recipe import Recipe
from captionkit.training.run import SAMPLES, RunFolder
from captionkit.training.setup import Setup


class Report:
    """Speaks for the main process of a run; the others are silent."""

    def __init__(self, folder: RunFolder, setup: Setup, recipe: Recipe, data: Path, accelerator: Accelerator) -> None:
        self.folder, self.setup, self.recipe, self.data = folder, setup, recipe, data
        self.accelerator, self.main = accelerator, accelerator.is_main_process
        self._nats, self._words = 0.0, 0
        self._since = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line."""
        if self.main:
            say(line)

    def bar(self, items: Iterable, total: int, what: str, done: int = 0) -> Generator:
        """Pass `items` on behind a progress bar."""
        return track(items, total, what, done=done, shown=self.main)

    def command(self, *, resume: bool = False) -> str:
        """What to type for this run; every choice is spelt out, wherever it was made."""
        flags = ["--resume"] if resume else self.recipe.to_flags()
        return shlex.join(["captionkit", "train", str(self.data), "--output", str(self.folder.path), *flags])

    def begin(self, plan: Plan, progress: Progress, thawing: str) -> None:
        """Say what is about to be learnt, and from what."""
        setup = self.setup
        total, trained = 0, 0
        for parameter in setup.model.parameters():
            total += parameter.numel()
            trained += parameter.numel() * parameter.requires_grad
        self.say(
            f"{len(setup.train)} training and {len(setup.val)} validation pictures, {len(setup.text)} tokens, "
            f"{trained / 1e6:.2f} of {total / 1e6:.2f} M parameters trained, {plan.steps_per_epoch} steps an epoch"
            f"{f' of {plan.passes} passes' if plan.passes > 1 else ''}, on {self.accelerator.device}"
        )
        for note in setup.notes:
            self.say(note)
        if thawing:
            self.say(thawing)
        if setup.problems:
            first = setup.problems[0]
            self.say(
                f"problems in the data: {len(setup.problems)}, the first {first.kind}, {first.where} ({first.detail}); "
                f"`{shlex.join(['captionkit', 'inspect', str(self.data)])}` names them all"
            )
        if progress.step:
            self.say(f"resumed after step {progress.step} of {plan.steps}")
        self._since = time.monotonic()

    def learnt(self, nats: float, words: int) -> None:
        """Count a step towards the next row of training loss."""
        self._nats, self._words = self._nats + nats, self._words + words

    def trained(self, where: dict[str, Any], rates: dict[str, float]) -> None:
        """Record loss and speed since the last such row, over all processes."""
        parts = gather_object([(self._nats, self._words)])
        nats, words = (sum(values) for values in zip(*parts, strict=True))
        speed = words / (time.monotonic() - self._since)
        self.folder.record(
            {"kind": "train", **where, "loss": nats / max(words, 1), **rates, "tokens_per_second": speed}
        )
        self._nats, self._words, self._since = 0.0, 0, time.monotonic()

    def evaluated(self, where: dict[str, Any], found: Validation, better: bool, seconds: float) -> None:
        """Record the loss and the scores, and bring curves.png, samples.html and the watcher up to date."""
        paused = time.monotonic()
        self.folder.record({"kind": "eval", **where, "val_loss": found.loss, **found.scores, "best": better})
        if self.main:
            self._show(where, found, better, seconds)
        self._since += time.monotonic() - paused

    def _show(self, where: dict[str, Any], found: Validation, better: bool, seconds: float) -> None:
        setup, folder = self.setup, self.folder
        shown = setup.val.subset(range(min(self.recipe.run.samples, len(setup.val))))
        cards = sample_cards(shown, found.said)
        files.write_text(folder.path / SAMPLES, samples_page(cards, where["step"], found))
        folder.draw()
        said = next((card.caption for card in cards if card.caption), "")
        rows = [row["loss"] for row in folder.rows if row["kind"] == "train"]
        trained = self._nats / self._words if self._words else next(reversed(rows), None)
        say(
            f"{'*' if better else ' '} epoch {where['epoch']:6.2f}  step {where['step']:6d}  "
            f"train {'    -' if trained is None else f'{trained:.3f}'}  "
            f"val {found.loss:.3f} nats/word  CIDEr-D {found.scores['cider']:.3f}  {seconds / 60:6.1f} min  | {said}"
        )
