"""Forecast of the memory that training needs, made before the first step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from captionkit.errors import TrainingError
from captionkit.training.data.collate import Batch, collate
from captionkit.training.data.dataset import CaptionDataset, Sample
from captionkit.training.data.loader import images_ahead
from captionkit.training.engine.free_memory import free_memory
from captionkit.training.objectives.losses import losses
from captionkit.training.train_step import TrainStep

#: share of the free memory that a suggested setting may use; the rest is for allocations outside of tensors
_FILLED = 0.9
#: bytes of CPU memory that torch's libraries allocate for themselves during training, as measured
_LIBRARIES = 120_000_000


class _LiveBytes(TorchDispatchMode):
    """Records, after each tensor operation, how many bytes of the storages created inside the mode are alive."""

    def __init__(self, known: Iterator[Tensor]) -> None:
        super().__init__()
        self.course: list[int] = []
        self._live = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        self.course.append(self._live)
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._live += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size


@dataclass(frozen=True)
class PassMemory:
    """Bytes alive after each operation of a pass over a few images (`images`) and over twice as many."""

    images: int
    few: np.ndarray
    many: np.ndarray

    def of(self, images: int) -> int:
        """Return the peak bytes of a pass over `images`, extrapolated linearly for each operation."""
        if len(self.few) == len(self.many):
            grown = self.few + (self.many - self.few) * (images / self.images - 1)
            return int(grown.max())
        few, many = self.few.max(), self.many.max()
        return int(few + (many - few) * (images / self.images - 1))


class MemoryEstimate:
    """Memory that a run will need beyond what is already allocated, by the size of the micro-batch.

    Measured by a forward and backward pass, and an evaluation pass, over a few blank images with captions as long as
    those of the largest batch. Weights, norm statistics and random generators are left unchanged.
    """

    def __init__(self, train_step: TrainStep, val: CaptionDataset) -> None:
        self.train_step = train_step
        plan, model, dataset = train_step.plan, train_step.model, train_step.dataset
        self.batch, self.processes = plan.recipe.trainer.batch_size, plan.processes
        words = np.array([sum(_lengths(dataset, index)) for index in range(len(dataset))])
        parts = (part for step in range(plan.steps_per_epoch) for _, part in plan.micro_batches_of(step))
        fullest = max(parts, key=lambda part: words[part].sum())
        longest = np.argsort([-sum(_lengths(val, index)) for index in range(len(val))])[: self._at_once(plan.parts)[1]]
        few = 2 if len(fullest) > 2 else 1
        self._on_processor = train_step.accelerator.device.type == "cpu"
        self.training = self._need(few, dataset, fullest, _training_pass)
        self.evaluation = self._need(few, val, longest, _validation_pass)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        moments = [parameter for parameter in trained if parameter not in train_step.optimizer.state]
        #: gradients, plus temporary tensors of the optimizer of the same size
        self._updates = 2 * _bytes(trained)
        self._moments = 2 * _bytes(moments)

    def of(self, parts: int) -> int:
        """Return the bytes needed if a step is split into `parts` micro-batches."""
        trained_at_once, evaluated = self._at_once(parts)
        passes = max(self.training.of(trained_at_once), self.evaluation.of(evaluated), self._updates)
        libraries = _LIBRARIES if self._on_processor else 0
        return self._moments + passes + self._image_bytes(trained_at_once) + libraries

    def fitting(self, room: int) -> tuple[int, int] | None:
        """Return the number of micro-batches, and images in each, that fit into `room` bytes; None if nothing does."""
        for parts in range(1, self.batch + 1):
            if self.of(parts) <= room:
                return parts, self._at_once(parts)[0]
        return None

    def _at_once(self, parts: int) -> tuple[int, int]:
        """Return the most images that go through the model at once in training, and in evaluation."""
        return -(-self.batch // (parts * self.processes)), -(-self.batch // parts)

    def _image_bytes(self, trained_at_once: int) -> int:
        """Return the bytes of the images themselves; on a CPU, also of those prepared ahead and being collated."""
        ahead = images_ahead(self.train_step.recipe.data.num_workers, trained_at_once) + trained_at_once
        return (trained_at_once + (ahead if self._on_processor else 0)) * _blank(self.train_step.dataset).nbytes

    def _need(self, few: int, dataset: CaptionDataset, indices: np.ndarray, run: Callable) -> PassMemory:
        courses = [self._course(_blank_batch(dataset, indices, count), run) for count in (few, 2 * few)]
        return PassMemory(few, *(np.array(course, float) for course in courses))

    def _course(self, batch: Batch, run: Callable) -> list[int]:
        train_step, device = self.train_step, self.train_step.accelerator.device
        batch, model = batch.to(device), train_step.model
        given = [batch.images, batch.features, batch.captions.tokens, batch.captions.image_index, batch.targets]
        known = [*model.parameters(), *model.buffers(), *(tensor for tensor in given if tensor is not None)]
        with _untouched(model), _LiveBytes(iter(known)) as live:
            run(train_step, batch)
        return live.course


def check_memory(train_step: TrainStep, val: CaptionDataset) -> None:
    """Raise TrainingError if the run's largest batch needs more memory than its device has free."""
    room = free_memory(train_step.accelerator.device)
    if room is None:
        return
    forecast = MemoryEstimate(train_step, val)
    parts = train_step.plan.parts
    need = forecast.of(parts)
    if need <= room:
        return
    images = -(-forecast.batch // (parts * forecast.processes))
    shown = f"{images} images at once need about {_said(need)} more, and {_said(room)} are free"
    fitting = forecast.fitting(int(_FILLED * room))
    if fitting is None:
        raise TrainingError(f"memory: {shown}, which is too little for one image; take a smaller image or model")
    smaller = fitting[1] * parts * forecast.processes
    raise TrainingError(
        f"memory: {shown}; set trainer.gradient_accumulation_steps to {fitting[0]}, which gives the same result, or "
        f"trainer.batch_size to {smaller}"
    )


def _said(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Restore the model's norm statistics and mode and the random generators after the block; clear gradients."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    mode = model.training
    with torch.random.fork_rng(devices=_gpus(model)):
        try:
            yield
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
            for parameter in model.parameters():
                parameter.grad = None
            model.train(mode)


def _gpus(model: nn.Module) -> list[torch.device]:
    return [device for device in {p.device for p in model.parameters()} if device.type == "cuda"]


def _training_pass(train_step: TrainStep, batch: Batch) -> None:
    """Run a forward and backward pass as in `TrainStep`."""
    train_step.model.train()
    with train_step.accelerator.autocast():
        decoded = train_step.model(batch.images, batch.features, batch.captions, _grid(train_step))
    found = losses(decoded, batch.targets, train_step.recipe.loss.label_smoothing)
    auxiliary = sum(found.auxiliary.terms.values()) if found.auxiliary else 0
    trained = [parameter for parameter in train_step.model.parameters() if parameter.requires_grad]
    # Not `backward`, which would trigger DDP's gradient synchronization.
    torch.autograd.grad(found.objective + found.coverage + auxiliary, trained, allow_unused=True)


@torch.no_grad()
def _validation_pass(train_step: TrainStep, batch: Batch) -> None:
    """Run the forward pass of `validate`; the beam search after it needs no more memory than a training step."""
    train_step.model.eval()
    with train_step.accelerator.autocast():
        decoded = train_step.model(batch.images, batch.features, batch.captions, _grid(train_step))
    losses(decoded, batch.targets, 0.0)


def _grid(train_step: TrainStep) -> tuple[int, int]:
    seen = train_step.dataset.preprocessing
    return train_step.model.encoder.grid(seen.height, seen.width)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _lengths(dataset: CaptionDataset, index: int) -> list[int]:
    """Return the numbers of words to predict in an image's captions, longest first.

    If training uses only some of the captions at a time, these are the longest ones.
    """
    lengths = sorted((len(caption) - 1 for caption in dataset.tokens[index]), reverse=True)
    return lengths[: dataset.recipe.data.captions_per_image] if dataset.augment else lengths


def _blank(dataset: CaptionDataset) -> np.ndarray:
    """Return a blank image [3,H,W], or blank features [G,D]."""
    if dataset.features is not None:
        return np.zeros(dataset.features.shape[2:], np.float32)
    return np.zeros((3, dataset.preprocessing.height, dataset.preprocessing.width), np.float32)


def _blank_batch(dataset: CaptionDataset, indices: np.ndarray, count: int) -> Batch:
    """Return a batch of `count` blank images, with captions per image and caption lengths as at `indices`."""
    lengths = sorted((length for index in indices for length in _lengths(dataset, index)), reverse=True)
    wanted = max(1, round(len(lengths) * count / len(indices)))
    chosen = [lengths[place] for place in np.linspace(0, len(lengths) - 1, wanted).astype(int)]
    samples = [Sample(_blank(dataset), [[0] * (length + 1) for length in chosen[row::count]]) for row in range(count)]
    return collate(samples, features=dataset.features is not None)
