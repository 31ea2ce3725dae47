"""One optimizer step: cross-entropy with teacher forcing, over parts and processes, and the weights' moving average."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from captionkit.errors import TrainingError
from captionkit.models.captioning import CaptioningModel
from captionkit.models.decoder import Packed
from captionkit.training.batches import Batch, Plan
from captionkit.training.ema import averaged
from captionkit.training.losses import losses
from captionkit.training.optimizer import set_rates
from captionkit.training.optimizers import make_optimizer
from captionkit.training.recipe import Recipe
from captionkit.training.teaching import Teaching

#: so many pictures in a row that cannot be read are no accident
_UNREADABLE = 256
#: share of hard attention's baseline that a step leaves: b_k = 0.9 b_{k-1} + 0.1 log p(y | s_k, a)
_BASELINE = 0.9


#: gives an optimizer the learning rates of a step (from 0)
Schedule = Callable[[Optimizer, int], None]


class Learner:
    """A model with its optimizer and its average; `step` teaches one step.

    A step draws its random numbers from its own seed, so that nothing need be remembered about them. `schedule` sets
    the learning rates of a step in place of the recipe.
    """

    def __init__(
        self,
        model: CaptioningModel,
        teaching: Teaching,
        plan: Plan,
        recipe: Recipe,
        accelerator: Accelerator,
        schedule: Schedule | None = None,
    ) -> None:
        # Convolutions are up to twice as fast with channels last.
        self.model = model.to(accelerator.device, memory_format=torch.channels_last)
        self.teaching, self.plan, self.recipe, self.accelerator = teaching, plan, recipe, accelerator
        self.average = averaged(self.model, recipe.optimizer.ema)
        self.optimizer = make_optimizer(self.model, recipe.optimizer)
        self._schedule = schedule or (lambda optimizer, step: set_rates(optimizer, step, plan.steps, recipe.optimizer))
        self._wrapped, self._wrapped_optimizer = accelerator.prepare(self.model, self.optimizer)
        size = teaching.preprocessing.height, teaching.preprocessing.width
        self._grid = self.model.encoder.grid(*size)
        #: of hard attention: what the step's sampled words earned, and how many there are
        self._earned = torch.zeros(2, device=accelerator.device)
        #: pictures that could not be read, with the reason
        self.broken: set[str] = set()
        self._unread = 0

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What a checkpoint holds besides the optimizer."""
        return {"model": self.model, "average": self.average}

    def step(self, number: int, batches: Iterator[Batch]) -> tuple[float, int] | None:
        """Make step `number` (from 0); returns this process' sum of nats and its words.

        Returns None, having changed no weight, where the loss or its gradient is not finite in any process.
        """
        recipe, accelerator = self.recipe.optimizer, self.accelerator
        totals = self.teaching.totals(*self.plan.pictures_of(number))
        self._schedule(self.optimizer, number)
        nats, words, finite = 0.0, 0, True
        self._earned.zero_()
        for part in range(self.plan.parts):
            batch = self._checked(next(batches))
            torch.manual_seed(_seed(self.recipe.run.seed, number, part, accelerator.process_index))
            objective, lost = self._backward(batch, totals, last=part == self.plan.parts - 1)
            finite = finite and math.isfinite(objective)
            nats, words = nats + lost, words + len(batch.targets)
        if not words and accelerator.num_processes == 1:
            return 0.0, 0
        norm = accelerator.clip_grad_norm_(self._wrapped.parameters(), recipe.clip)
        if accelerator.scaler is None:  # which skips a step of gradients that are too large for 16 bits
            finite = finite and math.isfinite(norm)
        if not self._everywhere(finite):
            return None
        self._wrapped_optimizer.step()
        self._wrapped_optimizer.zero_grad(set_to_none=True)
        self._move_baseline()
        self.average.update_parameters(self.model)
        return nats, words

    def _checked(self, batch: Batch) -> Batch:
        """Note the unreadable. Raises TrainingError where nothing but unreadable pictures comes."""
        self.broken.update(batch.broken)
        self._unread = self._unread + len(batch.broken) if not batch.captions.sizes else 0
        if self._unread >= min(_UNREADABLE, len(self.teaching)):
            raise TrainingError(
                f"none of the last {self._unread} pictures can be read ({batch.broken[0]}); mend or replace them"
            )
        return batch.to(self.accelerator.device)

    def _backward(self, batch: Batch, totals: tuple[int, int], *, last: bool) -> tuple[float, float]:
        """Add a part's gradient; processes share theirs after the last. Returns the objective and the sum of nats."""
        recipe, accelerator = self.recipe.optimizer, self.accelerator
        empty = not batch.captions.sizes
        if empty and accelerator.num_processes == 1:
            return 0.0, 0.0
        self._wrapped.train(not empty)
        with nullcontext() if last else accelerator.no_sync(self._wrapped):
            taught = self._stand_in() if empty else batch
            with accelerator.autocast():
                decoded = self._wrapped(taught.images, taught.features, taught.captions, self._grid)
            found = losses(decoded, taught.targets, recipe.label_smoothing)
            words, captions = totals
            objective = found.objective / words + recipe.coverage * found.coverage / captions
            if found.reward is not None:
                looked = recipe.hard_reward * found.reward.surrogate - recipe.hard_entropy * found.reward.entropy
                objective = objective + looked / words
                self._earned += found.reward.earned
            # Processes average their gradients, while the totals above are already those of all processes.
            accelerator.backward(objective * (0 if empty else accelerator.num_processes))
        return (0.0, 0.0) if empty else (objective.item(), found.nats.item())

    def _move_baseline(self) -> None:
        """Move hard attention's baseline by what all processes earned in this step, so that it is the same in all."""
        baseline = getattr(self.model.decoder, "baseline", None)
        if baseline is None:
            return
        total, words = self.accelerator.reduce(self._earned).unbind()
        if words:
            baseline.lerp_(total / words, 1 - _BASELINE)

    def _stand_in(self) -> Batch:
        """A blank picture that counts for nothing: every process must take part in sharing gradients."""
        features, device = self.teaching.features, self.accelerator.device
        size = (self.teaching.preprocessing.height, self.teaching.preprocessing.width)
        one = torch.zeros(1, dtype=torch.long, device=device)
        return Batch(
            torch.zeros(1, 3, *size, device=device) if features is None else None,
            None if features is None else torch.zeros(1, *features.shape[2:], device=device),
            Packed(one, [1], one),
            one,
            [],
        )

    def _everywhere(self, good: bool) -> bool:
        bad = torch.tensor(float(not good), device=self.accelerator.device)
        return self.accelerator.reduce(bad).item() == 0


def _seed(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little") >> 1
