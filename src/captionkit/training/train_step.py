"""One optimizer step over micro-batches and processes, by cross-entropy or self-critical training, and the EMA."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from typing import NamedTuple, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from captionkit.errors import TrainingError
from captionkit.models.captioning_model import CaptioningModel
from captionkit.models.decoder import Decoded, PackedCaptions
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.collate import Batch
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.engine.activation_checkpointing import recompute
from captionkit.training.objectives.losses import losses
from captionkit.training.objectives.scheduled_sampling import InputCorruption
from captionkit.training.objectives.scst import SelfCriticalLoss
from captionkit.training.optim.ema import averaged
from captionkit.training.optim.gradual_unfreezing import GradualUnfreezing
from captionkit.training.optim.optimizers import make_optimizer
from captionkit.training.optim.schedule import set_rates
from captionkit.training.step_metrics import StepMetrics

#: training fails after this many unreadable images in a row
_UNREADABLE = 256
#: number of recent images to read again, to tell a missing image from a missing disk
_REREAD = 8


#: sets the learning rates of an optimizer for a step (from 0)
Schedule = Callable[[Optimizer, int], None]


class Totals(NamedTuple):
    """Sizes of a step over all micro-batches and processes, by which its losses are divided."""

    words: int
    captions: int
    images: int


class TrainStep:
    """A model with its optimizer and EMA; `step` performs one training step.

    Every step seeds its own random numbers, so no generator state needs to be saved. `schedule`, if given, sets the
    learning rates of a step instead of the recipe.
    """

    def __init__(
        self,
        model: CaptioningModel,
        dataset: CaptionDataset,
        plan: EpochSampler,
        recipe: Recipe,
        accelerator: Accelerator,
        critic: SelfCriticalLoss | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """Set up model, optimizer and EMA; with a `critic`, training is self-critical."""
        # Convolutions are up to twice as fast in channels-last layout.
        self.model = model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dataset, self.plan, self.recipe, self.accelerator = dataset, plan, recipe, accelerator
        self.critic = critic
        self.average = averaged(self.model, recipe.trainer.ema_decay)
        if recipe.trainer.gradient_checkpointing:
            recompute(self.model)
        self.optimizer = make_optimizer(self.model, recipe.optimizer, recipe.encoder.layer_decay)
        self._schedule = schedule or (lambda optimizer, step: set_rates(optimizer, step, plan.steps, recipe.optimizer))
        self.unfreezing = GradualUnfreezing(self.model.encoder, recipe.encoder.unfreeze_epochs, plan.steps_per_epoch)
        self._wrapped, self._wrapped_optimizer = accelerator.prepare(self.model, self.optimizer)
        size = dataset.preprocessing.height, dataset.preprocessing.width
        self._grid = self.model.encoder.grid(*size)
        self._corruption = InputCorruption(self.model, dataset, self._grid, accelerator)
        #: sums over the step of the statistics that the decoder tracks
        self._statistics = torch.zeros(self.model.decoder.statistics, device=accelerator.device)
        #: images that could not be read, with the reason
        self.broken: set[str] = set()
        self._unread = 0
        #: indices of the latest readable images, and whether unreadable ones still await a check that the disk is there
        self._read: deque[int] = deque(maxlen=_REREAD)
        self._doubt = False

    @property
    def averaged_model(self) -> CaptioningModel:
        """The moving average of the model, which is evaluated and saved."""
        return cast("CaptioningModel", self.average.module)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules stored in a checkpoint, besides the optimizer."""
        return {"model": self.model, "average": self.average}

    def step(self, number: int, batches: Iterator[Batch]) -> StepMetrics | None:
        """Perform step `number` (from 0); return this process's metrics.

        Returns None, without changing any weight, if the loss or the gradient is not finite in any process.
        """
        accelerator = self.accelerator
        turns, images = self.plan.images_of(number)
        critic, count = self.critic, len(images)
        words, captions = self.dataset.totals(turns, images) if critic is None else (0, critic.captions(count))
        totals = Totals(words, captions, count)
        self._schedule(self.optimizer, number)
        self.unfreezing.apply(number)
        metrics, finite = StepMetrics(), True
        self._statistics.zero_()
        for part in range(self.plan.parts):
            batch = self._corruption.corrupt(
                self._checked(next(batches)), self._corruption.share(number, self.plan.steps)
            )
            torch.manual_seed(_seed(self.recipe.trainer.seed, number, part, accelerator.process_index))
            objective, more = self._backward(batch, totals, last=part == self.plan.parts - 1)
            finite = finite and math.isfinite(objective)
            metrics += more
        if not self._sum(metrics.words):
            self._wrapped_optimizer.zero_grad(set_to_none=True)
            return metrics
        norm = accelerator.clip_grad_norm_(self._wrapped.parameters(), self.recipe.trainer.max_grad_norm)
        if accelerator.scaler is None:  # the scaler itself skips steps whose gradients overflow fp16
            finite = finite and math.isfinite(norm)
        if self._sum(not finite):
            return None
        self._wrapped_optimizer.step()
        self._wrapped_optimizer.zero_grad(set_to_none=True)
        self._update_statistics()
        self.average.update_parameters(self.model)
        return metrics

    def _checked(self, batch: Batch) -> Batch:
        """Record unreadable images and move the batch to the device.

        Raises TrainingError if too many images in a row are unreadable.
        """
        self.broken.update(batch.broken)
        self._read.extend(batch.indices[-_REREAD:])
        self._doubt |= bool(batch.broken)
        self._unread = self._unread + len(batch.broken) if not batch.captions.sizes else 0
        if self._unread >= min(_UNREADABLE, len(self.dataset)):
            raise TrainingError(
                f"none of the last {self._unread} images can be read ({batch.broken[0]}); fix or replace them"
            )
        return batch.to(self.accelerator.device)

    @property
    def blind(self) -> bool:
        """Whether no image could be read so far, although some were tried."""
        return self._doubt and not self._read

    def vanished(self, broken: Collection[str] = ()) -> str:
        """Return why images that were readable before no longer are; empty if one still is, or if none failed.

        To be called before anything is saved: after a disk disappears, steps train on incomplete data, although each
        looks as if it just met a few damaged images. `broken` are failures seen elsewhere.
        """
        if not (self._doubt or broken) or not self._read:
            return ""
        reason = ""
        for index in reversed(self._read):
            reason = self.dataset[0, index].broken
            if not reason:
                self._doubt = False
                return ""
        return reason

    def _backward(self, batch: Batch, totals: Totals, *, last: bool) -> tuple[float, StepMetrics]:
        """Accumulate the gradient of a micro-batch; processes synchronize after the last one.

        Returns the objective and the metrics.
        """
        accelerator = self.accelerator
        empty = not batch.captions.sizes
        if empty and accelerator.num_processes == 1:
            return 0.0, StepMetrics()
        self._wrapped.train(not empty)
        with nullcontext() if last else accelerator.no_sync(self._wrapped):
            inputs = self._blank_batch() if empty else batch
            if self.critic is None or empty:
                objective, metrics = self._cross_entropy(inputs, totals)
            else:
                objective, metrics = self._self_critical(self.critic, inputs, totals)
            # DDP averages gradients over processes, but `totals` already counts all processes.
            accelerator.backward(objective * (0 if empty else accelerator.num_processes))
        return (0.0, StepMetrics()) if empty else (objective.item(), metrics)

    def _cross_entropy(self, batch: Batch, totals: Totals) -> tuple[Tensor, StepMetrics]:
        recipe, words, captions = self.recipe.loss, totals.words, totals.captions
        with self.accelerator.autocast():
            decoded = self._wrapped(batch.images, batch.features, batch.captions, self._grid)
        weight = self.recipe.distillation.weight
        found = losses(decoded, batch.targets, recipe.label_smoothing, batch.soft, weight)
        objective = found.objective / max(words, 1) + recipe.doubly_stochastic_weight * found.coverage / captions
        if found.auxiliary is not None:
            weights = {"reward": recipe.hard_reward, "entropy": recipe.hard_entropy}
            objective = objective + sum(weights[name] * term for name, term in found.auxiliary.terms.items()) / words
            self._statistics += found.auxiliary.statistics
        objective = objective + self._concept_loss(decoded, batch, totals)
        return objective, StepMetrics(found.nats.item(), len(batch.targets))

    def _self_critical(self, critic: SelfCriticalLoss, batch: Batch, totals: Totals) -> tuple[Tensor, StepMetrics]:
        with self.accelerator.autocast():
            self.model.eval()
            with torch.no_grad():
                if self.model.encoder.frozen and batch.features is None:  # encode the images once, not twice
                    batch = batch._replace(images=None, features=self.model.features(batch.images))
                memory = self.model.encode_or_project(batch.images, batch.features, self._grid)
                rollout = critic.rollout(self.model, memory, batch.turns, batch.indices)
            self.model.train()
            decoded = self._wrapped(batch.images, batch.features, rollout.captions, self._grid)
        objective, metrics = critic.objective(decoded, rollout)
        return objective / totals.captions + self._concept_loss(decoded, batch, totals), metrics

    def _concept_loss(self, decoded: Decoded, batch: Batch, totals: Totals) -> Tensor | float:
        """Return the weighted loss of the concept head on the reference captions, its share of the mean over images."""
        if self.model.concepts is None or decoded.evidence is None:
            return 0.0
        found = self.model.concepts.loss(decoded.evidence.float(), batch.captions, batch.targets)
        return self.recipe.loss.concept_weight * found / totals.images

    def _update_statistics(self) -> None:
        """Update what the decoder tracks from this step's sums over all processes, so that it is equal on all."""
        if self.model.decoder.statistics:
            self.model.decoder.update_statistics(self.accelerator.reduce(self._statistics))

    def _blank_batch(self) -> Batch:
        """Return a batch of one blank image with zero weight, because every rank must take part in the all-reduce."""
        features, device = self.dataset.features, self.accelerator.device
        size = (self.dataset.preprocessing.height, self.dataset.preprocessing.width)
        one = torch.zeros(1, dtype=torch.long, device=device)
        return Batch(
            torch.zeros(1, 3, *size, device=device) if features is None else None,
            None if features is None else torch.zeros(1, *features.shape[2:], device=device),
            PackedCaptions(one, [1], one),
            one,
            [],
        )

    def _sum(self, value: float) -> float:
        """Sum `value` over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        return self.accelerator.reduce(torch.tensor(float(value), device=self.accelerator.device)).item()


def _seed(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little") >> 1
