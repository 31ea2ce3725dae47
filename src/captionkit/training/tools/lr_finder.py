"""`captionkit find-lr`: the learning-rate range test (Smith, arXiv 1506.01186) with exponentially rising rates.

A model is trained for some hundred steps while the learning rate of its decoder rises from negligible to divergence.
If the recipe trains the encoder, the test is repeated for the encoder's learning rate, from the same initial weights.
"""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim import Optimizer

from captionkit.errors import CaptionkitError, TrainingError
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.loader import batches
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.engine.distributed import make_accelerator, refuse_several
from captionkit.training.engine.precision import with_precision
from captionkit.training.run_datasets import build_datasets
from captionkit.training.run_setup import prepare
from captionkit.training.train_step import TrainStep
from captionkit.utils import atomic_write, paths
from captionkit.utils.output_checks import check_output_file
from captionkit.utils.progress import progress_bar
from captionkit.viz.learning_rates import draw_range_tests

#: learning rates of the first and the last step: from where no optimizer makes progress to where all diverge
LOWEST, HIGHEST = 1e-6, 10.0
#: the test ends when the smoothed loss exceeds its minimum by this factor. fastai uses 4, which the cross-entropy of
#: words rarely reaches: a uniform distribution over the words has 1.5 to 3 times the loss of a trained model.
_DIVERGED = 1.5
#: decay of the running mean that detects divergence, and number of initial steps in which it is ignored
_MEMORY, _PATIENCE = 0.9, 20
#: width, in decades of the learning rate, of the Gaussian smoothing that suggestions are read from
_WIDTH = 0.12
#: factor between the learning rate of the lowest loss, which is on the verge of divergence, and the suggested one
_DECADE = 10


@dataclass(frozen=True)
class RangeTest:
    """Result of a range test of one part of the model, "decoder" or "encoder"."""

    part: str
    #: per step: the learning rate, the loss before the update (nats per word), and the smoothed loss
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    #: learning rates at which the smoothed loss falls fastest, and at which it is lowest
    steepest: float
    lowest: float
    #: the suggested peak learning rate: a decade below that of the lowest loss
    suggested: float
    #: whether the loss diverged, or was no longer finite, before the last step
    diverged: bool

    def __str__(self) -> str:
        end = "and breaks soon after" if self.diverged else f"and breaks at no rate up to {self.rates[-1]:.1g}"
        return (
            f"{self.part}: the loss falls fastest at a rate of {self.steepest:.1e}, is lowest at {self.lowest:.1e} "
            f"{end}; suggested: {self.suggested:.1e}, a decade below the lowest"
        )


def find_rates(data: Path, output: Path, recipe: Recipe, *, steps: int) -> tuple[list[RangeTest], Recipe]:
    """Test the decoder's learning rate, and the encoder's if it is trained.

    Writes a plot to `output` (.png) and the data to a .json beside it. No run folder is created; apart from these
    files, only the feature cache of a frozen encoder is written.

    Returns:
        The tests, and the recipe with the suggested learning rates.

    Raises:
        CaptionkitError: a file exists already or has another extension.
        TrainingError: the loss falls at no learning rate; or anything for which `train` raises it.
    """
    refuse_several("find-lr")
    recipe, points = with_precision(recipe), check_output(output, steps)
    tests: list[RangeTest] = []
    for part in ("decoder", "encoder")[: 1 if recipe.encoder.train == "frozen" else 2]:
        found = _test(data, recipe, part, steps)
        tests.append(found)
        suggested: dict[str, Any] = {f"lr_{part}": found.suggested}
        recipe = replace(recipe, optimizer=replace(recipe.optimizer, **suggested))
    values = [asdict(test) for test in tests]
    draw_range_tests(values, output)
    atomic_write.write_text(
        points, json.dumps({"data": str(data), "recipe": recipe.to_dict(), "tests": values}, indent=1)
    )
    return tests, recipe


def check_output(output: Path, steps: int) -> Path:
    """Return the .json path beside `output`.

    Raises CaptionkitError, before any work, if a file cannot be written or there are too few steps.
    """
    if output.suffix.lower() != ".png":
        raise CaptionkitError(f"{output}: the plot is a PNG; end the name in .png")
    points = output.with_suffix(".json")
    for path in (output, points):
        if paths.exists(path):
            raise CaptionkitError(f"{path}: is there already; move it away, or give another --output")
        check_output_file(path, lambda _: False)
    if steps < 2 * _PATIENCE:
        raise CaptionkitError(f"--steps {steps}: too few to tell anything; give {2 * _PATIENCE} or more")
    return points


def rate_at(step: int, steps: int) -> float:
    """Return the learning rate of a step (from 0), rising exponentially from LOWEST to HIGHEST."""
    return LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1))


def _test(data: Path, recipe: Recipe, part: str, steps: int) -> RangeTest:
    """Run the range test of `part`.

    The decoder is tested with the encoder's learning rate at 0, the encoder with the decoder's at the value in
    `recipe`.
    """
    setup = prepare(recipe, data)
    accelerator = make_accelerator(recipe.trainer.precision, setup.model)
    setup.model.to(accelerator.device)
    dataset = build_datasets(setup, recipe, accelerator, "train", progress_bar)
    per_epoch = EpochSampler(len(dataset), recipe).steps_per_epoch
    lasting = replace(recipe, trainer=replace(recipe.trainer, epochs=-(-steps // per_epoch), ema_decay=0.0))
    plan = EpochSampler(len(dataset), lasting)

    def schedule(optimizer: Optimizer, step: int) -> None:
        for group in optimizer.param_groups:
            if group["name"].startswith(part):  # keeps the ratio between layers of different learning rates
                group["lr"] = rate_at(step, steps) * group["base_lr"] / getattr(recipe.optimizer, f"lr_{part}")
            else:
                group["lr"] = group["base_lr"] if part == "encoder" else 0.0

    train_step = TrainStep(setup.model, dataset, plan, lasting, accelerator, schedule=schedule)
    tried: list[float] = []
    losses: list[float] = []
    diverged = False
    with (
        closing(progress_bar(range(steps), steps, f"rate of the {part}")) as numbers,
        closing(batches(dataset, plan, 0, recipe.data.num_workers)) as images,
    ):
        for step in numbers:
            metrics = train_step.step(step, images)
            diverged = metrics is None
            if metrics is not None:
                tried.append(rate_at(step, steps))
                losses.append(metrics.row()["loss"])
                diverged = has_diverged(losses)
            if diverged:
                break
    return read_off(part, tried, losses, diverged=diverged)


def has_diverged(losses: list[float]) -> bool:
    """Return whether the bias-corrected running mean of the losses is far above its minimum so far."""
    mean, lowest = 0.0, math.inf
    for count, loss in enumerate(losses, 1):
        mean = _MEMORY * mean + (1 - _MEMORY) * loss
        smooth = mean / (1 - _MEMORY**count)
        lowest = min(lowest, smooth)
    return len(losses) > _PATIENCE and smooth > _DIVERGED * lowest


def read_off(part: str, tried: list[float], losses: list[float], *, diverged: bool) -> RangeTest:
    """Compute the suggestions of a test. Raises TrainingError if the loss falls at no learning rate."""
    smooth, lowest = np.empty(0), 0
    if len(tried) > _PATIENCE:
        logs = np.log10(tried)
        weights = np.exp(-0.5 * ((logs[:, None] - logs[None, :]) / _WIDTH) ** 2)  # [steps,steps]
        smooth = weights @ np.array(losses) / weights.sum(1)
        lowest = int(smooth.argmin())
    if lowest == 0:
        raise TrainingError(
            f"the loss falls at no rate of the {part}'s between {LOWEST:g} and {tried[-1] if tried else LOWEST:.2g}; "
            "`captionkit inspect` tells what is wrong with data; try another optimizer.name or more --steps"
        )
    steepest = int(np.gradient(smooth, logs)[: lowest + 1].argmin())
    return RangeTest(
        part,
        tuple(tried),
        tuple(losses),
        tuple(smooth.tolist()),
        steepest=_rounded(tried[steepest]),
        lowest=_rounded(tried[lowest]),
        suggested=_rounded(tried[lowest] / _DECADE),
        diverged=diverged,
    )


def _rounded(rate: float) -> float:
    return float(f"{rate:.1e}")
