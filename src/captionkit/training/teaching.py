"""What is taught of each picture: its captions and how it is seen, decided by seed, epoch and picture alone.

Nothing here remembers anything, so a resumed run, any number of threads and any number of processes see the same
captions, crops and mirrorings as one uninterrupted process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from captionkit.datasets import CaptionSet
from captionkit.errors import ImageError
from captionkit.images import Preprocessing, load_image
from captionkit.text import Text
from captionkit.training.recipe import ImageRecipe, Recipe

#: separate streams of random numbers from one seed
ORDER, CHOICE, SAMPLES = 1, 2, 3


class Sample(NamedTuple):
    """One picture with the captions chosen for it."""

    picture: np.ndarray | None  # pixels [3,H,W] or features [G,D]; None if it could not be read
    captions: list[list[int]]
    broken: str = ""


class Teaching:
    """Pictures and encoded captions of a split; an item is asked for by (epoch, index). Each picture has captions.

    `features` [N,views,G,D] replaces the pictures where a frozen encoder has seen them already; `broken` says of which
    pictures it could not, and why.
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
        most = recipe.data.max_length
        self.tokens = [[_cut(next(encoded), most) for _ in example.captions] for example in self.examples]
        self.recipe, self.preprocessing, self.features, self.augment = recipe, preprocessing, features, augment
        self.broken = broken or {}
        self.flippable = [recipe.image.flip and may_flip(e.captions, recipe.image) for e in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    def choice(self, epoch: int, index: int) -> tuple[list[list[int]], np.random.Generator]:
        """The captions taught of a picture in an epoch, and the generator that decides the rest about it."""
        generator = np.random.default_rng((self.recipe.run.seed, CHOICE, epoch, index))
        captions, most = self.tokens[index], self.recipe.data.captions_per_image
        if self.augment and len(captions) > most:
            chosen = generator.choice(len(captions), most, replace=False)
            captions = [captions[i] for i in sorted(chosen)]
        return captions, generator

    def totals(self, epoch: int, indices: Sequence[int]) -> tuple[int, int]:
        """Words to predict and captions in a step, over all processes and parts: what its loss is divided by."""
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


def _cut(ids: list[int], most: int) -> list[int]:
    """At most `most` words; a caption that was cut does not end, so no end token is taught for it."""
    return ids if len(ids) <= most + 2 else ids[: most + 1]


def may_flip(captions: Sequence[str], recipe: ImageRecipe) -> bool:
    """Whether a picture can be mirrored without making one of its captions wrong."""
    if not recipe.flip_unless:
        return True
    forbidden = re.compile(rf"\b(?:{'|'.join(map(re.escape, recipe.flip_unless))})\b", re.IGNORECASE)
    return not any(forbidden.search(caption) for caption in captions)


def random_crop(generator: np.random.Generator, smallest: float) -> tuple[float, float, float, float] | None:
    """A box, as shares of the sides, of at least `smallest` of the area and 3:4 to 4:3 in shape; None for all of it."""
    if smallest >= 1:
        return None
    area, shape = generator.uniform(smallest, 1), np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(np.sqrt(area * shape), 1.0)
    height = min(area / width, 1.0)
    width = area / height  # a side that would be longer than the picture's gives what is over to the other
    left, top = generator.uniform(0, 1 - width), generator.uniform(0, 1 - height)
    return left, top, left + width, top + height
