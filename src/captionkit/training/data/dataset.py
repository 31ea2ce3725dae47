"""The training dataset: which captions and which augmentation an image gets, as a function of seed, epoch and image.

The dataset keeps no state, so captions, crops and flips are the same in a resumed run, and for any number of threads
and processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from captionkit.data.images import Preprocessing, load_image
from captionkit.data.layouts import CaptionSet
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import ImageError
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.augment import random_colour, random_crop
from captionkit.training.data.feature_cache import ConcatFeatures
from captionkit.training.data.flip import can_flip, swapped_captions
from captionkit.training.data.random_streams import CAPTIONS, CHOICE, round_robin
from captionkit.utils.grouping import map_groups

if TYPE_CHECKING:
    from captionkit.training.data.soft_targets import SoftTargets


class Sample(NamedTuple):
    """One image with the captions selected for it."""

    image: np.ndarray | None  # pixels [3,H,W] or features [G,D]; None if it could not be read
    captions: list[list[int]]
    broken: str = ""
    #: per caption, three random numbers in [0, 1) for each input word (see `InputCorruption`) [L,3]; empty if not used
    uniforms: Sequence[np.ndarray] = ()
    #: per caption, the soft targets of each word to predict, as in `SoftTargets` [L,T]; empty without teachers
    soft: Sequence[np.ndarray] = ()


class ItemPlan(NamedTuple):
    """Captions and augmentation of an image in one of its turns, known before the image is read."""

    captions: list[list[int]]
    #: indices of these captions among the image's captions
    places: Sequence[int]
    flip: bool
    #: random stream for everything else about the image
    generator: np.random.Generator


class CaptionDataset:
    """Images and encoded captions of a split. Each image has captions.

    Items are indexed by (turn, index). The turn says how often the image was shown before, which is the epoch number
    unless datasets are mixed (see `EpochSampler`). `features` [N,views,G,D] are cached features of a frozen encoder
    that replace the images; `broken` has the reason for each image that could not be read while computing them.
    `tokens` are the captions' ids, if they are encoded already.
    """

    def __init__(
        self,
        captions: CaptionSet,
        tokenizer: Tokenizer,
        recipe: Recipe,
        preprocessing: Preprocessing,
        *,
        augment: bool,
        features: np.ndarray | ConcatFeatures | None = None,
        broken: Mapping[int, str] | None = None,
        tokens: Sequence[Sequence[list[int]]] | None = None,
    ) -> None:
        self.examples = list(captions)
        self.recipe, self.preprocessing, self.features, self.augment = recipe, preprocessing, features, augment
        self.tokenizer = tokenizer
        captions_of = [example.captions for example in self.examples]
        self.tokens = self._encoded(captions_of) if tokens is None else self._truncated(tokens)
        self.broken = broken or {}
        #: soft targets of the captions, if the run has teachers
        self.soft: SoftTargets | None = None
        self.flippable = [recipe.image.flip and can_flip(e.captions, recipe.image) for e in self.examples]
        #: for images whose captions change when flipped: the captions of the flipped image
        self.mirrored: dict[int, list[list[int]]] = {}
        if augment and recipe.image.flip and recipe.image.flip_swap:
            self._allow_swaps()
        self._uses_uniforms = augment and bool(recipe.data.token_dropout or recipe.loss.scheduled_sampling)

    def _encoded(self, captions: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        return self._truncated(map_groups(self.tokenizer.encode_batch, captions))

    def _truncated(self, tokens: Sequence[Sequence[list[int]]]) -> list[list[list[int]]]:
        return [[_cut(ids, self.recipe.data.max_length) for ids in some] for some in tokens]

    def _allow_swaps(self) -> None:
        swaps = {
            index: swapped_captions(example.captions, self.tokenizer, self.recipe.image)
            for index, example in enumerate(self.examples)
            if not self.flippable[index]
        }
        known = {index: captions for index, captions in swaps.items() if captions is not None}
        self.mirrored = dict(zip(known, self._encoded(list(known.values())), strict=True))
        for index in known:
            self.flippable[index] = True

    def __len__(self) -> int:
        return len(self.examples)

    def plan_item(self, turn: int, index: int) -> ItemPlan:
        """Select the captions of an image in a turn and whether it is flipped; return them with the random stream."""
        seed, most = self.recipe.trainer.seed, self.recipe.data.captions_per_image
        generator = np.random.default_rng((seed, CHOICE, turn, index))
        flip = bool(self.augment and self.flippable[index] and generator.random() < 0.5)
        captions = self.mirrored.get(index, self.tokens[index]) if flip else self.tokens[index]
        places: Sequence[int] = range(len(captions))
        if self.augment and len(captions) > most:
            chosen, _ = round_robin((seed, CAPTIONS, index), len(captions), most, turn)
            places = sorted(chosen.tolist())
        return ItemPlan([captions[place] for place in places], places, flip, generator)

    def totals(self, turns: Iterable[int], indices: Iterable[int]) -> tuple[int, int]:
        """Count the words to predict and the captions of a step over all processes and micro-batches.

        These are the denominators of the step's loss.
        """
        plans = (self.plan_item(turn, index) for turn, index in zip(turns, indices, strict=True))
        lengths = [len(caption) - 1 for plan_item in plans for caption in plan_item.captions]
        return sum(lengths), len(lengths)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        turn, index = key
        plan_item = self.plan_item(turn, index)
        if index in self.broken:
            return Sample(None, plan_item.captions, self.broken[index])
        try:
            image = self._seen(index, plan_item)
        except ImageError as error:
            return Sample(None, plan_item.captions, str(error))
        uniforms = self._uniforms(plan_item) if self._uses_uniforms else ()
        soft = [self.soft.of(index, place) for place in plan_item.places] if self.soft else ()
        return Sample(image, plan_item.captions, uniforms=uniforms, soft=soft)

    def _seen(self, index: int, plan_item: ItemPlan) -> np.ndarray:
        if self.features is not None:
            return self.features[index, int(plan_item.flip)]
        image = self.recipe.image
        box = random_crop(plan_item.generator, image.random_resized_crop_scale) if self.augment else None
        colour = random_colour(plan_item.generator, image.color_jitter) if self.augment else None
        source = self.examples[index].image
        return load_image(source, self.preprocessing, box=box, flip=plan_item.flip, colour=colour)

    @staticmethod
    def _uniforms(plan_item: ItemPlan) -> list[np.ndarray]:
        draw = plan_item.generator.random
        return [draw((len(caption) - 1, 3), dtype=np.float32) for caption in plan_item.captions]


def _cut(ids: list[int], most: int) -> list[int]:
    """Truncate to at most `most` words; a truncated caption has no end token, so none is a target."""
    return ids if len(ids) <= most + 2 else ids[: most + 1]
