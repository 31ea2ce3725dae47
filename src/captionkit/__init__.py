"""captionkit describes images in words.

import captionkit

model = captionkit.load()
print(model.caption("photo.jpg").text)
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # quiet, until whoever uses the library asks

if TYPE_CHECKING:
    from captionkit.data.images import Preprocessing as Preprocessing
    from captionkit.data.images import open_image as open_image
    from captionkit.data.layouts import CaptionSet as CaptionSet
    from captionkit.data.layouts import open_dataset as open_dataset
    from captionkit.errors import CaptionkitError as CaptionkitError
    from captionkit.eval.evaluate import evaluate_model as evaluate_model
    from captionkit.eval.score_files import score_files as score_files
    from captionkit.export.export_model import export_model as export_model
    from captionkit.inference.captioner import Caption as Caption
    from captionkit.inference.captioner import Captioner as Captioner
    from captionkit.inference.captioner import Outcome as Outcome
    from captionkit.inference.captioner import Word as Word
    from captionkit.inference.load import load as load
    from captionkit.inference.model_folder import ModelFolder as ModelFolder
    from captionkit.inference.model_folder import open_model as open_model
    from captionkit.inference.model_folder import push_model as push_model
    from captionkit.inference.pipeline import pipeline as pipeline
    from captionkit.inference.published.clip import OnnxClipScore as OnnxClipScore
    from captionkit.inference.search import Decoding as Decoding
    from captionkit.metrics import Scores as Scores
    from captionkit.metrics import evaluate as evaluate
    from captionkit.models.clip_score import ClipScore as ClipScore
    from captionkit.training.config.recipe import Recipe as Recipe
    from captionkit.training.config.recipe import load_recipe as load_recipe
    from captionkit.training.trainer import train as train

#: public name -> its module; loaded at first use, so that `import captionkit` is quick and needs no torch
_MODULES = {
    "Caption": "inference.captioner",
    "Captioner": "inference.captioner",
    "CaptionSet": "data.layouts",
    "CaptionkitError": "errors",
    "ClipScore": "models.clip_score",
    "Decoding": "inference.search",
    "ModelFolder": "inference.model_folder",
    "OnnxClipScore": "inference.published.clip",
    "Outcome": "inference.captioner",
    "Preprocessing": "data.images",
    "Recipe": "training.config.recipe",
    "Scores": "metrics",
    "Word": "inference.captioner",
    "evaluate": "metrics",
    "evaluate_model": "eval.evaluate",
    "export_model": "export.export_model",
    "load": "inference.load",
    "load_recipe": "training.config.recipe",
    "open_dataset": "data.layouts",
    "open_image": "data.images",
    "open_model": "inference.model_folder",
    "pipeline": "inference.pipeline",
    "push_model": "inference.model_folder",
    "score_files": "eval.score_files",
    "train": "training.trainer",
}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'captionkit' has no attribute {name!r}")
    value = getattr(import_module(f"captionkit.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
