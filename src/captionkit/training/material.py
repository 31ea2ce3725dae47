"""The pictures of a run as they are taught and evaluated, with what a frozen encoder makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import Accelerator

from captionkit.datasets import CaptionSet
from captionkit.training.features import JoinedFeatures, Shown, cached_features
from captionkit.training.recipe import Recipe
from captionkit.training.setup import Setup
from captionkit.training.teaching import Teaching


def teaching_of(setup: Setup, recipe: Recipe, accelerator: Accelerator, part: str, shown: Shown) -> Teaching:
    """What is taught ("train") or evaluated ("val"): features, computed once, where a frozen encoder allows it."""
    training = part == "train"
    captions, image = setup.train if training else setup.val, recipe.image
    features, broken = None, {}
    anew = training and (image.crop < 1 or image.colour > 0)  # each time another picture
    if setup.model.encoder.frozen and not anew:
        sets = [source.train for source in setup.sources] if training else [captions]
        features, broken = _features(setup, recipe, accelerator, sets, shown, flips=training and image.flip)
    return Teaching(
        captions, setup.text, recipe, setup.preprocessing, augment=training, features=features, broken=broken
    )


def _features(
    setup: Setup, recipe: Recipe, accelerator: Accelerator, sets: Sequence[CaptionSet], shown: Shown, *, flips: bool
) -> tuple[JoinedFeatures, dict[int, str]]:
    """What the frozen encoder makes of the pictures: a file for each dataset, which serves any mix of it."""
    parts, broken, start = [], {}, 0
    for captions in sets:
        # One process computes; the others then find the file.
        with accelerator.main_process_first():
            features, unread = cached_features(
                setup.model.encoder.eval(),
                captions,
                setup.preprocessing,
                flips=flips,
                precision=recipe.run.precision,
                shown=shown,
            )
        parts.append(features)
        broken |= {start + index: reason for index, reason in unread.items()}
        start += len(captions)
    return JoinedFeatures(parts), broken
