"""Batches: which pictures and captions a step sees, decided by seed, epoch and picture alone.

Nothing here remembers anything, so a resumed run, any number of loader workers and any number of processes see the same
pictures, captions, crops and mirrorings as one uninterrupted process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captionkit.datasets import CaptionSet
from captionkit.errors import ImageError
from captionkit.images import Preprocessing, load_image
from captionkit.models.show_attend_tell import Packed
from captionkit.text import Text
from captionkit.training.recipe import ImageRecipe, Recipe

_ORDER, _CHOICE = 1, 2  # separate streams of random numbers from one seed


class Batch(NamedTuple):
    """Pictures, or the features made of them, with their captions packed (see `Packed`)."""

    images: Tensor | None  # [B,3,H,W]
    features: Tensor | None  # [B,G,D]
    captions: Packed
    targets: Tensor  # [P]: the word after each of captions.tokens
    broken: list[str]  # pictures that could not be read, with the reason

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        tokens, sizes, image_of = self.captions
        return Batch(
            None
            if self.images is None
            else self.images.to(device, non_blocking=True, memory_format=torch.channels_last),
            None if self.features is None else self.features.to(device, non_blocking=True),
            Packed(tokens.to(device), sizes, image_of.to(device)),
            self.targets.to(device),
            self.broken,
        )


class Sample(NamedTuple):
    """One picture with the captions chosen for it."""

    picture: np.ndarray | None  # pixels [3,H,W] or features [G,D]; None if it could not be read
    captions: list[list[int]]
    broken: str = ""


class Teaching(Dataset):
    """Pictures and encoded captions of a split; an item is asked for by (epoch, index). Each picture has captions.

    `features` [N,views,G,D] replaces the pictures where a frozen encoder has seen them already; `broken` says of which
    pictures it could not.
    """

    def __init__(
        self,
        captions: CaptionSet,
        text: Text,
        recipe: Recipe,
        preprocessing: Preprocessing,
        *,
        augment: bool,
        features: np.ndarray | None = None,
        broken: Mapping[int, str] | None = None,
    ) -> None:
        self.examples = list(captions)
        flat = [caption for example in self.examples for caption in example.captions]
        encoded = iter(text.encode_batch(flat))
        limit = recipe.data.max_length + 1
        self.tokens = [[next(encoded)[: limit + 1] for _ in example.captions] for example in self.examples]
        self.recipe, self.preprocessing, self.features, self.augment = recipe, preprocessing, features, augment
        self.broken = broken or {}
        self.flippable = [recipe.image.flip and may_flip(e.captions, recipe.image) for e in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    def choice(self, epoch: int, index: int) -> tuple[list[list[int]], np.random.Generator]:
        """The captions taught for a picture in an epoch, and the generator that decides the rest about it."""
        generator = np.random.default_rng((self.recipe.run.seed, _CHOICE, epoch, index))
        captions, most = self.tokens[index], self.recipe.data.captions_per_image
        if self.augment and len(captions) > most:
            chosen = generator.choice(len(captions), most, replace=False)
            captions = [captions[i] for i in sorted(chosen)]
        return captions, generator

    def totals(self, epoch: int, indices: Sequence[int]) -> tuple[int, int]:
        """Words to predict and captions in a batch, over all processes and parts: what its loss is divided by."""
        lengths = [len(caption) - 1 for index in indices for caption in self.choice(epoch, index)[0]]
        return sum(lengths), len(lengths)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        captions, generator = self.choice(epoch, index)
        if index in self.broken:
            return Sample(None, captions, self.broken[index])
        flip = bool(self.augment and self.flippable[index] and generator.random() < 0.5)
        if self.features is not None:
            return Sample(self.features[index, int(flip)], captions)
        box = random_crop(generator, self.recipe.image.crop) if self.augment else None
        try:
            return Sample(load_image(self.examples[index].image, self.preprocessing, box=box, flip=flip), captions)
        except ImageError as error:
            return Sample(None, captions, str(error))


def may_flip(captions: Sequence[str], recipe: ImageRecipe) -> bool:
    """Whether a picture can be mirrored without making one of its captions wrong."""
    if not recipe.flip_unless:
        return True
    forbidden = re.compile(rf"\b(?:{'|'.join(map(re.escape, recipe.flip_unless))})\b", re.IGNORECASE)
    return not any(forbidden.search(caption) for caption in captions)


def random_crop(generator: np.random.Generator, smallest: float) -> tuple[float, float, float, float] | None:
    """A box of at least `smallest` of the area and a shape of 3:4 to 4:3, as shares of the sides; None for all of it."""
    if smallest >= 1:
        return None
    area, shape = generator.uniform(smallest, 1), np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    width, height = min(np.sqrt(area * shape), 1.0), min(np.sqrt(area / shape), 1.0)
    left, top = generator.uniform(0, 1 - width), generator.uniform(0, 1 - height)
    return left, top, left + width, top + height


def collate(samples: Sequence[Sample], *, features: bool) -> Batch:
    """Stack pictures and pack captions, longest first; pictures that could not be read are left out and named."""
    good = [sample for sample in samples if sample.picture is not None]
    captions = [(caption, row) for row, sample in enumerate(good) for caption in sample.captions]
    captions.sort(key=lambda pair: -len(pair[0]))
    steps = max((len(caption) for caption, _ in captions), default=1) - 1
    columns = [[caption[t : t + 2] for caption, _ in captions if len(caption) > t + 1] for t in range(steps)]
    flat = torch.tensor([pair for column in columns for pair in column]).reshape(-1, 2)  # [P,2]
    stacked = torch.from_numpy(np.stack([s.picture for s in good])).float() if good else torch.zeros(0)
    return Batch(
        None if features else stacked,
        stacked if features else None,
        Packed(flat[:, 0].contiguous(), [len(c) for c in columns], torch.tensor([row for _, row in captions])),
        flat[:, 1].contiguous(),
        [sample.broken for sample in samples if sample.picture is None],
    )


class Plan:
    """The order of a run: step number -> epoch and pictures, cut into parts for accumulation and processes."""

    def __init__(self, pictures: int, recipe: Recipe, *, processes: int = 1, rank: int = 0) -> None:
        self.pictures, self.recipe, self.rank, self.processes = pictures, recipe, rank, processes
        self.parts = recipe.optimizer.accumulate
        smallest = self.parts * processes
        full, rest = divmod(pictures, recipe.optimizer.batch_size)
        self.steps_per_epoch = full + (rest >= smallest) or 1
        self.steps = recipe.optimizer.epochs * self.steps_per_epoch

    def pictures_of(self, step: int) -> tuple[int, np.ndarray]:
        """The epoch of a step and the indices of all its pictures."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.recipe.run.seed, _ORDER, epoch)).permutation(self.pictures)
        size = self.recipe.optimizer.batch_size
        return epoch, order[place * size : (place + 1) * size]

    def keys(self, start: int) -> Iterator[list[tuple[int, int]]]:
        """This process' share of every part of every step from `start` on."""
        for step in range(start, self.steps):
            epoch, indices = self.pictures_of(step)
            for part in np.array_split(indices, self.parts * self.processes)[self.rank :: self.processes]:
                yield [(epoch, int(index)) for index in part]


class _Keys:
    """A batch sampler made of `Plan.keys`; DataLoader wants an iterable that can be asked again."""

    def __init__(self, plan: Plan, start: int) -> None:
        self.plan, self.start = plan, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.plan.keys(self.start)


class _Collate:
    """`collate` as an object that loader processes can be handed."""

    def __init__(self, features: bool) -> None:
        self.features = features

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        return collate(samples, features=self.features)


def loader(teaching: Teaching, plan: Plan, start: int, workers: int) -> DataLoader:
    """Batches of this process from step `start` to the end of the run."""
    return DataLoader(
        teaching,
        batch_sampler=_Keys(plan, start),
        collate_fn=_Collate(teaching.features is not None),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def whole(teaching: Teaching, size: int, rank: int, processes: int) -> Iterator[Batch]:
    """Every picture of a split once, without augmentation: this process' share, `size` pictures at a time."""
    mine = range(rank, len(teaching), processes)
    for start in range(0, len(mine), size):
        yield collate([teaching[0, i] for i in mine[start : start + size]], features=teaching.features is not None)
