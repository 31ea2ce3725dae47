"""captionkit describes images in words.

import captionkit

model = captionkit.load()
print(model.caption("photo.jpg").text)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from captionkit.data.images import Preprocessing, open_image
    from captionkit.data.layouts import CaptionSet, open_dataset
    from captionkit.errors import CaptionkitError
    from captionkit.inference.captioner import Caption, Captioner, Outcome, Word
    from captionkit.inference.load import load
    from captionkit.inference.model_folder import ModelFolder, open_model, push_model
    from captionkit.inference.search import Decoding
    from captionkit.metrics import Scores, evaluate
    from captionkit.models.clip_score import ClipScore

#: public name -> where it lives; loaded at first use, so that `import captionkit` is quick
_HOMES = {
    "Caption": "inference.captioner",
    "Captioner": "inference.captioner",
    "CaptionSet": "data.layouts",
    "CaptionkitError": "errors",
    "ClipScore": "models.clip_score",
    "Decoding": "inference.search",
    "ModelFolder": "inference.model_folder",
    "Outcome": "inference.captioner",
    "Preprocessing": "data.images",
    "Scores": "metrics",
    "Word": "inference.captioner",
    "evaluate": "metrics",
    "load": "inference.load",
    "open_dataset": "data.layouts",
    "open_image": "data.images",
    "open_model": "inference.model_folder",
    "push_model": "inference.model_folder",
}
__all__ = [
    "Caption",
    "CaptionSet",
    "Captioner",
    "CaptionkitError",
    "ClipScore",
    "Decoding",
    "ModelFolder",
    "Outcome",
    "Preprocessing",
    "Scores",
    "Word",
    "evaluate",
    "load",
    "open_dataset",
    "open_image",
    "open_model",
    "push_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'captionkit' has no attribute {name!r}")
    value = getattr(import_module(f"captionkit.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
