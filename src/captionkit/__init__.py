"""captionkit describes pictures in words.

import captionkit

model = captionkit.load()
print(model.caption("photo.jpg").text)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from captionkit.bundle import ModelFolder, open_model, push_model
    from captionkit.captioner import Caption, Captioner, Outcome, Word
    from captionkit.datasets import CaptionSet, open_dataset
    from captionkit.errors import CaptionkitError
    from captionkit.images import Preprocessing, open_image
    from captionkit.loading import load
    from captionkit.metrics import Scores, evaluate
    from captionkit.models.clip_score import ClipScore
    from captionkit.search import Decoding

#: public name -> where it lives; loaded at first use, so that `import captionkit` is quick
_HOMES = {
    "Caption": "captioner",
    "Captioner": "captioner",
    "CaptionSet": "datasets",
    "CaptionkitError": "errors",
    "ClipScore": "models.clip_score",
    "Decoding": "search",
    "ModelFolder": "bundle",
    "Outcome": "captioner",
    "Preprocessing": "images",
    "Scores": "metrics",
    "Word": "captioner",
    "evaluate": "metrics",
    "load": "loading",
    "open_dataset": "datasets",
    "open_image": "images",
    "open_model": "bundle",
    "push_model": "bundle",
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
