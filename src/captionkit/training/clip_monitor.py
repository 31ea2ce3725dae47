"""CLIPScore of validation captions, which needs their images and no references."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from captionkit.data.layouts import CaptionSet
from captionkit.errors import ModelError, RecipeError
from captionkit.inference.model_folder import CONFIG, is_hub_id
from captionkit.metrics.clip_score import ClipScoreMetric
from captionkit.metrics.metric import Floats
from captionkit.models.load_clip import load_clip_score
from captionkit.training.config.recipe import Recipe
from captionkit.utils.paths import exists, is_file, shown


def check_clip(recipe: Recipe) -> None:
    """Check what is cheap to check of the CLIP model that a recipe names, before any long work.

    Raises RecipeError if the best model is to be chosen by CLIPScore and none is named, ModelError for a path that
    holds none.
    """
    clip = recipe.trainer.clip
    if recipe.trainer.monitor == "clipscore" and not clip:
        raise RecipeError(
            "trainer.monitor is clipscore, but trainer.clip names no CLIP model; name a folder or Hub id by --clip"
        )
    is_path = clip and (exists(clip, ModelError) or not is_hub_id(clip))
    if is_path and not is_file(Path(clip) / CONFIG, ModelError):
        raise ModelError(f"{shown(clip)}: no CLIP model, as there is no {CONFIG}; name its folder or Hub id by --clip")


def make_clip_monitor(recipe: Recipe, images: CaptionSet, device: str) -> ClipMonitor | None:
    """Load the CLIP model that a recipe names, if any, to score captions of `images`.

    Raises ModelError if it cannot be used.
    """
    return ClipMonitor(load_clip_score(recipe.trainer.clip, device=device), images) if recipe.trainer.clip else None


class ClipMonitor:
    """Scores captions of the images of a split; each image is embedded once."""

    def __init__(self, metric: ClipScoreMetric, images: CaptionSet) -> None:
        self._metric, self._images = metric, images
        #: embeddings [D] by index in the split
        self._embedded: dict[int, Floats] = {}

    def scores(self, said: Mapping[int, str]) -> dict[int, float]:
        """Return the CLIPScore of captions, both by index in the split. Raises ImageError for an unreadable image."""
        if not said:
            return {}
        if fresh := [place for place in said if place not in self._embedded]:
            rows = self._metric.embed_images(self._images[place].image for place in fresh)
            self._embedded.update(zip(fresh, rows, strict=True))
        images = np.stack([self._embedded[place] for place in said])  # [N,D]
        return dict(zip(said, self._metric.similarity(list(said.values()), images).tolist(), strict=True))
