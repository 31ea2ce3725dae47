"""One optimizer step, over parts and processes: cross-entropy or self-critical; and the weights' moving average."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from captionkit.errors import TrainingError
from captionkit.models.captioning_model import CaptioningModel
from captionkit.models.decoder import PackedCaptions
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.collate import Batch
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.engine.activation_checkpointing import recompute
from captionkit.training.objectives.losses import losses
from captionkit.training.objectives.scheduled_sampling import Feeding
from captionkit.training.objectives.scst import SelfCriticalLoss
from captionkit.training.optim.ema import averaged
from captionkit.training.optim.gradual_unfreezing import GradualUnfreezing
from captionkit.training.optim.optimizers import make_optimizer
from captionkit.training.optim.schedule import set_rates
from captionkit.training.step_metrics import StepMetrics

#: so many images in a row that cannot be read are no accident
_UNREADABLE = 256
#: so many images are read again to tell an image that is gone from a disk that is
_REREAD = 8
#: share of hard attention's baseline that a step leaves: b_k = 0.9 b_{k-1} + 0.1 log p(y | s_k, a)
_BASELINE = 0.9


#: gives an optimizer the learning rates of a step (from 0)
Schedule = Callable[[Optimizer, int], None]


class TrainStep:
    """A model with its optimizer and its average; `step` teaches one step.

    A step draws its random numbers from its own seed, so that nothing need be remembered about them. `schedule` sets
    the learning rates of a step in place of the recipe.
    """

    def __init__(
        self,
        model: CaptioningModel,
        teaching: CaptionDataset,
        plan: EpochSampler,
        recipe: Recipe,
        accelerator: Accelerator,
        critic: SelfCriticalLoss | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """With a `critic` the model learns from what it says by itself."""
        # Convolutions are up to twice as fast with channels last.
        self.model = model.to(accelerator.device, memory_format=torch.channels_last)
        self.teaching, self.plan, self.recipe, self.accelerator = teaching, plan, recipe, accelerator
        self.critic = critic
        self.average = averaged(self.model, recipe.optimizer.ema)
        if recipe.run.recompute:
            recompute(self.model)
        self.optimizer = make_optimizer(self.model, recipe.optimizer, recipe.encoder.stage_decay)
        self._schedule = schedule or (lambda optimizer, step: set_rates(optimizer, step, plan.steps, recipe.optimizer))
        self.thawing = GradualUnfreezing(self.model.encoder, recipe.encoder.thaw, plan.steps_per_epoch)
        self._wrapped, self._wrapped_optimizer = accelerator.prepare(self.model, self.optimizer)
        size = teaching.preprocessing.height, teaching.preprocessing.width
        self._grid = self.model.encoder.grid(*size)
        self._feeding = Feeding(self.model, teaching, self._grid, accelerator)
        #: of hard attention: what the step's sampled words earned, and how many there are
        self._reward_sum = torch.zeros(2, device=accelerator.device)
        #: images that could not be read, with the reason
        self.broken: set[str] = set()
        self._unread = 0
        #: the latest that could be read, and whether others since then could not
        self._read: deque[int] = deque(maxlen=_REREAD)
        self._doubt = False

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What a checkpoint holds besides the optimizer."""
        return {"model": self.model, "average": self.average}

    def step(self, number: int, batches: Iterator[Batch]) -> StepMetrics | None:
        """Make step `number` (from 0); returns what this process learnt.

        Returns None, having changed no weight, where the loss or its gradient is not finite in any process.
        """
        recipe, accelerator = self.recipe.optimizer, self.accelerator
        turns, pictures = self.plan.pictures_of(number)
        if self.critic is None:
            totals = self.teaching.totals(turns, pictures)
        else:
            totals = (0, self.critic.captions(len(pictures)))
        self._schedule(self.optimizer, number)
        self.thawing.apply(number)
        learnt, finite = StepMetrics(), True
        self._reward_sum.zero_()
        for part in range(self.plan.parts):
            batch = self._feeding.fed(self._checked(next(batches)), self._feeding.share(number, self.plan.steps))
            torch.manual_seed(_seed(self.recipe.run.seed, number, part, accelerator.process_index))
            objective, more = self._backward(batch, totals, last=part == self.plan.parts - 1)
            finite = finite and math.isfinite(objective)
            learnt += more
        if not self._sum(learnt.words):
            self._wrapped_optimizer.zero_grad(set_to_none=True)
            return learnt
        norm = accelerator.clip_grad_norm_(self._wrapped.parameters(), recipe.clip)
        if accelerator.scaler is None:  # which skips a step of gradients that are too large for 16 bits
            finite = finite and math.isfinite(norm)
        if self._sum(not finite):
            return None
        self._wrapped_optimizer.step()
        self._wrapped_optimizer.zero_grad(set_to_none=True)
        self._move_baseline()
        self.average.update_parameters(self.model)
        return learnt

    def _checked(self, batch: Batch) -> Batch:
        """Note the unreadable. Raises TrainingError where nothing but unreadable images comes."""
        self.broken.update(batch.broken)
        self._read.extend(batch.indices[-_REREAD:])
        self._doubt |= bool(batch.broken)
        self._unread = self._unread + len(batch.broken) if not batch.captions.sizes else 0
        if self._unread >= min(_UNREADABLE, len(self.teaching)):
            raise TrainingError(
                f"none of the last {self._unread} images can be read ({batch.broken[0]}); mend or replace them"
            )
        return batch.to(self.accelerator.device)

    @property
    def blind(self) -> bool:
        """Whether no image has been read yet, though some have been tried."""
        return self._doubt and not self._read

    def vanished(self, broken: Collection[str] = ()) -> str:
        """Why images that were read before cannot be read any more; empty if one can, or if none failed.

        To be asked before anything is kept: a disk that went away spoils the steps after that, though each of them
        looks like one that met a few damaged images. `broken` are failures seen elsewhere.
        """
        if not (self._doubt or broken) or not self._read:
            return ""
        reason = ""
        for index in reversed(self._read):
            reason = self.teaching[0, index].broken
            if not reason:
                self._doubt = False
                return ""
        return reason

    def _backward(self, batch: Batch, totals: tuple[int, int], *, last: bool) -> tuple[float, StepMetrics]:
        """Add a part's gradient; processes share theirs after the last. Returns the objective and what was learnt."""
        accelerator = self.accelerator
        empty = not batch.captions.sizes
        if empty and accelerator.num_processes == 1:
            return 0.0, StepMetrics()
        self._wrapped.train(not empty)
        with nullcontext() if last else accelerator.no_sync(self._wrapped):
            taught = self._stand_in() if empty else batch
            teach = self._cross_entropy if self.critic is None or empty else self._self_critical
            objective, learnt = teach(taught, totals)
            # Processes average their gradients, while the totals are already those of all processes.
            accelerator.backward(objective * (0 if empty else accelerator.num_processes))
        return (0.0, StepMetrics()) if empty else (objective.item(), learnt)

    def _cross_entropy(self, batch: Batch, totals: tuple[int, int]) -> tuple[Tensor, StepMetrics]:
        recipe, (words, captions) = self.recipe.optimizer, totals
        with self.accelerator.autocast():
            decoded = self._wrapped(batch.images, batch.features, batch.captions, self._grid)
        weight = self.recipe.distillation.weight
        found = losses(decoded, batch.targets, recipe.label_smoothing, batch.soft, weight)
        objective = found.objective / max(words, 1) + recipe.coverage * found.coverage / captions
        if found.reward is not None:
            looked = recipe.hard_reward * found.reward.surrogate - recipe.hard_entropy * found.reward.entropy
            objective = objective + looked / words
            self._reward_sum += found.reward.earned
        return objective, StepMetrics(found.nats.item(), len(batch.targets))

    def _self_critical(self, batch: Batch, totals: tuple[int, int]) -> tuple[Tensor, StepMetrics]:
        with self.accelerator.autocast():
            self.model.eval()
            with torch.no_grad():
                if self.model.encoder.frozen and batch.features is None:  # it sees the images once, not twice
                    batch = batch._replace(images=None, features=self.model.features(batch.images))
                memory = self.model.seen(batch.images, batch.features, self._grid)
                said = self.critic.listen(self.model, memory, batch.turns, batch.indices)
            self.model.train()
            decoded = self._wrapped(batch.images, batch.features, said.captions, self._grid)
        objective, learnt = self.critic.objective(decoded, said)
        return objective / totals[1], learnt

    def _move_baseline(self) -> None:
        """Move hard attention's baseline by what all processes earned in this step, so that it is the same in all."""
        baseline = getattr(self.model.decoder, "baseline", None)
        if baseline is None:
            return
        total, words = self.accelerator.reduce(self._reward_sum).unbind()
        if words:
            baseline.lerp_(total / words, 1 - _BASELINE)

    def _stand_in(self) -> Batch:
        """A blank image that counts for nothing: every process must take part in sharing gradients."""
        features, device = self.teaching.features, self.accelerator.device
        size = (self.teaching.preprocessing.height, self.teaching.preprocessing.width)
        one = torch.zeros(1, dtype=torch.long, device=device)
        return Batch(
            torch.zeros(1, 3, *size, device=device) if features is None else None,
            None if features is None else torch.zeros(1, *features.shape[2:], device=device),
            PackedCaptions(one, [1], one),
            one,
            [],
        )

    def _sum(self, value: float) -> float:
        """Over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        return self.accelerator.reduce(torch.tensor(float(value), device=self.accelerator.device)).item()


def _seed(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little") >> 1
