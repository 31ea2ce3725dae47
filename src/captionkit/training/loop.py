"""The training loop: cross-entropy with teacher forcing, from a recipe to a run folder."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from captionkit import files
from captionkit.errors import TrainingError
from captionkit.progress import say, track
from captionkit.search import Decoding
from captionkit.training.batches import Batch, Plan, Teaching, loader
from captionkit.training.checkpoints import Progress, load_checkpoint, save_checkpoint
from captionkit.training.ema import averaged
from captionkit.training.evaluation import sample_captions, samples_page, validation_loss
from captionkit.training.features import cached_features
from captionkit.training.keep import keep_model
from captionkit.training.losses import losses
from captionkit.training.recipe import Recipe
from captionkit.training.run import BEST, LAST, SAMPLES, RunFolder
from captionkit.training.setup import Setup, prepare

_LOG_EVERY = 20  # steps between two rows of training loss
_SAMPLE_DECODING = Decoding(beam=3)


@dataclass(frozen=True)
class Result:
    """What a finished run answers."""

    folder: Path
    best_loss: float
    best_step: int
    steps: int


def train(data: str | Path, output: str | Path, recipe: Recipe | None = None, *, resume: bool = False) -> Result:
    """Train a captioner on the dataset at `data` and keep everything in the folder `output`.

    `resume` takes up the run in `output` with the recipe stored there. Raises
    TrainingError, DatasetError, ModelError or RecipeError with what to do about it.
    """
    if resume:
        recipe = RunFolder(Path(output), writes=False).recipe()
    recipe = recipe or Recipe()
    accelerator = Accelerator(mixed_precision=recipe.run.precision)
    return _Run(recipe, Path(data), Path(output), resume, accelerator).go()


class _Run:
    """One sitting of a run."""

    def __init__(self, recipe: Recipe, data: Path, output: Path, resume: bool, accelerator: Accelerator) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.folder = RunFolder(output, writes=accelerator.is_main_process)
        self.setup = prepare(recipe, data)
        self.plan = Plan(
            len(self.setup.train), recipe, processes=accelerator.num_processes, rank=accelerator.process_index
        )
        if len(self.setup.train) < self.plan.parts * accelerator.num_processes:
            raise TrainingError(f"{data}: fewer training pictures than parts of a step; lower optimizer.accumulate")
        if not resume:
            accelerator.wait_for_everyone()
            self.folder.start(recipe)
        # Convolutions are up to twice as fast with channels last.
        self.model = self.setup.model.to(accelerator.device, memory_format=torch.channels_last)
        self.train_set, self.val_set = (self._teaching(part) for part in ("train", "val"))
        self.average = averaged(self.model, recipe.optimizer.ema)
        self.optimizer = _optimizer(self.model, recipe)
        self.progress = Progress()
        self.fingerprint = _fingerprint(recipe, self.setup)
        if resume and (output / LAST).exists():
            self.progress = load_checkpoint(output / LAST, self.fingerprint, self._models(), self.optimizer)
        self.folder.rewind(self.progress.step)
        self.wrapped, self.wrapped_optimizer = accelerator.prepare(self.model, self.optimizer)
        self._restore_scale()
        self.broken: set[str] = set()

    def _models(self) -> dict[str, nn.Module]:
        return {"model": self.model, "average": self.average}

    def _teaching(self, part: str) -> Teaching:
        recipe, setup, training = self.recipe, self.setup, part == "train"
        captions = setup.train if training else setup.val
        cached, broken = None, {}
        if self.model.encoder.frozen and (recipe.image.crop >= 1 or not training):
            # One process computes; the others then find the file.
            with self.accelerator.main_process_first():
                cached, broken = cached_features(
                    self.model.encoder.eval(),
                    captions,
                    setup.preprocessing,
                    flips=training and recipe.image.flip,
                    precision=recipe.run.precision,
                    progress=track,
                )
        return Teaching(
            captions, setup.text, recipe, setup.preprocessing, augment=training, features=cached, broken=broken
        )

    def go(self) -> Result:
        """Train to the end, to patience's end or to a failure."""
        self._announce()
        progress, plan = self.progress, self.plan
        evaluate_every = max(1, round(self.recipe.run.eval_every * plan.steps_per_epoch))
        batches = iter(loader(self.train_set, plan, progress.step, self.recipe.run.workers))
        saved = started = time.monotonic()
        before, tokens, nats, seen = progress.seconds, 0, 0.0, time.monotonic()
        for step in track(range(progress.step, plan.steps), plan.steps, "training", done=progress.step):
            if self._finished():
                break
            lost, words = self._step(step, batches)
            nats, tokens = nats + lost, tokens + words
            progress.step = step + 1
            now = time.monotonic()
            progress.seconds = before + now - started
            if progress.step % _LOG_EVERY == 0:
                self._log_training(nats / tokens, tokens / (now - seen))
                nats, tokens, seen = 0.0, 0, now
            due = progress.step % evaluate_every == 0 or progress.step == plan.steps
            if due:
                self._evaluate()
            if due or now - saved >= self.recipe.run.checkpoint_every:
                self._save()
                saved = time.monotonic()
        return self._end()

    def _finished(self) -> bool:
        return 0 < self.recipe.run.patience <= self.progress.stale

    def _step(self, step: int, batches: Any) -> tuple[float, int]:
        """One optimizer step over all parts; returns this process' sum of nats, and its words."""
        optimizer, accelerator, recipe = self.wrapped_optimizer, self.accelerator, self.recipe.optimizer
        epoch, indices = self.plan.pictures_of(step)
        totals = self.train_set.totals(epoch, indices)
        factor = rate_factor(step, self.plan.steps, recipe.warmup, recipe.floor)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.wrapped.train()
        nats, words, finite = 0.0, 0, True
        for part in range(self.plan.parts):
            batch = next(batches).to(accelerator.device)
            torch.manual_seed(_seed(self.recipe.run.seed, step, part, accelerator.process_index))
            last = part == self.plan.parts - 1
            if last:
                objective, lost = self._backward(batch, totals)
            else:
                with accelerator.no_sync(self.wrapped):
                    objective, lost = self._backward(batch, totals)
            finite = finite and math.isfinite(objective)
            nats, words = nats + lost, words + len(batch.targets)
        self._stop_if_not_finite(step, finite)
        accelerator.clip_grad_norm_(self.wrapped.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.model)
        return nats, words

    def _backward(self, batch: Batch, totals: tuple[int, int]) -> tuple[float, float]:
        self.broken.update(batch.broken)
        if not batch.captions.sizes:
            raise TrainingError(f"none of a step's pictures can be read ({batch.broken[0]}); mend or remove them")
        recipe, accelerator = self.recipe.optimizer, self.accelerator
        with accelerator.autocast():
            decoded = self.wrapped(batch.images, batch.features, batch.captions)
        found = losses(decoded, batch.targets, recipe.label_smoothing)
        words, captions = totals
        objective = found.objective / words + recipe.coverage * found.coverage / captions
        # Processes average their gradients, while the totals above are already those of all processes.
        accelerator.backward(objective * accelerator.num_processes)
        return objective.item(), found.nats.item()

    def _stop_if_not_finite(self, step: int, finite: bool) -> None:
        flag = torch.tensor(float(not finite), device=self.accelerator.device)
        if self.accelerator.reduce(flag).item() > 0:
            raise TrainingError(
                f"the loss of step {step + 1} is not finite; the checkpoint of an earlier step is kept in "
                f"{self.folder.path / LAST}; start anew with a lower optimizer.lr_decoder or optimizer.lr_encoder"
            )

    def _log_training(self, loss: float, speed: float) -> None:
        rates = {f"lr_{group['name']}": group["lr"] for group in self.optimizer.param_groups if group["named"]}
        row = {"kind": "train", **self._where(), "loss": loss, **rates, "tokens_per_second": speed}
        self.folder.record(row)

    def _where(self) -> dict[str, Any]:
        return {"step": self.progress.step, "epoch": self.progress.step / self.plan.steps_per_epoch}

    def _evaluate(self) -> None:
        progress, model = self.progress, self.average.module
        size = self.recipe.optimizer.batch_size
        loss = validation_loss(model, self.val_set, size, self.accelerator)
        if not math.isfinite(loss):
            self._stop_if_not_finite(progress.step, False)
        better = loss < progress.best_loss
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best_loss, progress.best_step = loss, progress.step
        self.folder.record({"kind": "eval", **self._where(), "val_loss": loss, "best": better})
        if not self.accelerator.is_main_process:
            return
        if better:
            self._keep()
        shown = self.setup.val.subset(range(min(self.recipe.run.samples, len(self.setup.val))))
        cards = sample_captions(model, shown, self.setup.text, self.setup.preprocessing, _SAMPLE_DECODING)
        files.write_text(self.folder.path / SAMPLES, samples_page(cards, progress.step, loss))
        self.folder.draw()
        said = next((card.caption for card in cards if card.caption), "")
        mark = "*" if better else " "
        trained = next((row["loss"] for row in reversed(self.folder.rows) if row["kind"] == "train"), float("nan"))
        say(
            f"{mark} epoch {self._where()['epoch']:6.2f}  step {progress.step:6d}  train {trained:.3f}  "
            f"val {loss:.3f} nats/word  {progress.seconds / 60:6.1f} min  | {said}"
        )

    def _keep(self) -> None:
        facts = {
            "command": " ".join(["captionkit", *sys.argv[1:]]),
            "data": {"name": self.setup.train.name, "fingerprint": self.setup.train.fingerprint()},
            "pictures": {"train": len(self.setup.train), "val": len(self.setup.val)},
            "val_loss": self.progress.best_loss,
            "step": self.progress.step,
            "epoch": self._where()["epoch"],
            "minutes": round(self.progress.seconds / 60, 1),
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
        }
        keep_model(self.folder.path / BEST, self.average.module, self.setup, self.recipe, facts)

    def _save(self) -> None:
        scaler = self.accelerator.scaler
        if scaler is not None:
            state = scaler.state_dict()
            self.progress.loss_scale, self.progress.loss_scale_steps = state["scale"], state["_growth_tracker"]
        if self.accelerator.is_main_process:
            path = self.folder.path / LAST
            save_checkpoint(path, self.progress, self.fingerprint, self._models(), self.optimizer)
        self.accelerator.wait_for_everyone()

    def _restore_scale(self) -> None:
        scaler = self.accelerator.scaler
        if scaler is not None and self.progress.loss_scale:
            state = {**scaler.state_dict(), "scale": self.progress.loss_scale}
            scaler.load_state_dict({**state, "_growth_tracker": self.progress.loss_scale_steps})

    def _announce(self) -> None:
        if not self.accelerator.is_main_process:
            return
        setup, plan = self.setup, self.plan
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.model.parameters())
        say(
            f"{len(setup.train)} training and {len(setup.val)} validation pictures, {len(setup.text)} tokens, "
            f"{trained / 1e6:.2f} of {total / 1e6:.2f} M parameters trained, {plan.steps_per_epoch} steps an epoch, "
            f"on {self.accelerator.device}"
        )
        if self.progress.step:
            say(f"resumed after step {self.progress.step} of {plan.steps}")

    def _end(self) -> Result:
        self.folder.close()
        progress = self.progress
        if self.accelerator.is_main_process:
            why = "no better for a while" if self._finished() else "all epochs done"
            say(
                f"{why}: best validation loss {progress.best_loss:.3f} nats/word at step {progress.best_step}; "
                f"model in {self.folder.path / BEST}"
            )
            for reason in sorted(self.broken):
                say(f"left out: {reason}")
        return Result(self.folder.path, progress.best_loss, progress.best_step, progress.step)


def rate_factor(step: int, steps: int, warmup: int, floor: float) -> float:
    """The learning rate's share at a step (from 0): linear warm-up, then cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    through = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * through))


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW: the encoder's and the decoder's rates, and no decay on biases, norms and embeddings."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "encoder" if name.startswith("encoder.") else "decoder"
            decayed = parameter.ndim > 1 and "embedding" not in name
            groups.setdefault((part, decayed), []).append(parameter)
    rates = {"encoder": recipe.optimizer.lr_encoder, "decoder": recipe.optimizer.lr_decoder}
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": rates[part],
                "peak": rates[part],
                "name": part,
                "named": decayed,
                "weight_decay": recipe.optimizer.weight_decay if decayed else 0.0,
            }
            for (part, decayed), parameters in groups.items()
        ],
        betas=(0.9, 0.98),
    )


def _seed(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little") >> 1


def _fingerprint(recipe: Recipe, setup: Setup) -> str:
    """What a checkpoint belongs to: everything that changes the weights, and nothing that does not."""
    values = asdict(recipe)
    for name in ("workers", "checkpoint_every", "samples", "half_weights"):
        del values["run"][name]
    facts = [values, setup.train.fingerprint(), setup.val.fingerprint(), setup.text.to_json()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
