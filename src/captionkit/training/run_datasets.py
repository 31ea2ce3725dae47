"""Build the datasets of a run, with cached features of a frozen encoder and soft targets of teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from accelerate import Accelerator

from captionkit.data.images import Preprocessing
from captionkit.data.layouts import CaptionSet
from captionkit.models.encoder import Encoder
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.feature_cache import ConcatFeatures, Shown, cached_features
from captionkit.training.data.soft_targets import SoftTargets
from captionkit.training.objectives.distillation import Teacher, open_teachers, soft_targets
from captionkit.training.run_setup import Setup


def build_datasets(setup: Setup, recipe: Recipe, accelerator: Accelerator, part: str, shown: Shown) -> CaptionDataset:
    """Build the dataset for training (`part` = "train") or evaluation ("val").

    Features of frozen encoder stages are computed once and cached, unless augmentation changes the images every time.
    """
    training = part == "train"
    captions, image = setup.train if training else setup.val, recipe.image
    features: ConcatFeatures | None = None
    broken: dict[int, str] = {}
    augmented = training and (
        image.random_resized_crop_scale < 1 or image.color_jitter > 0
    )  # augmentation gives another image each time
    if setup.model.encoder.cacheable and not recipe.encoder.unfreeze_epochs and not augmented:
        sets = [source.train for source in setup.sources] if training else [captions]
        seen = FrozenEncoder(setup.model.encoder, setup.preprocessing)
        features, broken = _features(seen, recipe, accelerator, sets, shown, flips=training and image.flip)
    dataset = CaptionDataset(
        captions,
        setup.tokenizer,
        recipe,
        setup.preprocessing,
        augment=training,
        features=features,
        broken=broken,
        tokens=setup.tokens[part],
    )
    if training and recipe.distillation.teachers:
        dataset.soft = _soft_targets(setup, recipe, accelerator, dataset.tokens, shown)
    return dataset


def _soft_targets(
    setup: Setup,
    recipe: Recipe,
    accelerator: Accelerator,
    tokens: Sequence[Sequence[Sequence[int]]],
    shown: Shown,
) -> SoftTargets:
    """Return the soft targets of the recipe's teachers for the training captions."""
    sets, teachers = [source.train for source in setup.sources], []
    for folder, model in open_teachers(recipe, setup.tokenizer):
        seen = FrozenEncoder(model.to(accelerator.device).encoder, folder.preprocessing)
        teachers.append(Teacher(folder, model, _features(seen, recipe, accelerator, sets, shown, flips=False)[0]))
    return soft_targets(teachers, tokens, recipe, accelerator, shown)


class FrozenEncoder(NamedTuple):
    """An encoder with the preprocessing of its input images."""

    encoder: Encoder
    preprocessing: Preprocessing


def _features(
    seen: FrozenEncoder,
    recipe: Recipe,
    accelerator: Accelerator,
    sets: Sequence[CaptionSet],
    shown: Shown,
    *,
    flips: bool,
) -> tuple[ConcatFeatures, dict[int, str]]:
    """Compute or load the frozen encoder's features, one cache file per dataset, reusable in any mixture.

    Returns the features, and the reasons why some images (by index) could not be read.
    """
    parts, start = [], 0
    broken: dict[int, str] = {}
    for captions in sets:
        # The main process computes the features; the others load the cached file.
        with accelerator.main_process_first():
            features, unread = cached_features(
                seen.encoder.eval(),
                captions,
                seen.preprocessing,
                flips=flips,
                precision=recipe.trainer.precision,
                shown=shown,
            )
        parts.append(features)
        broken |= {start + index: reason for index, reason in unread.items()}
        start += len(captions)
    return ConcatFeatures(parts), broken
