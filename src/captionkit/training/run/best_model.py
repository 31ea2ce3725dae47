"""The model folder that a run saves, with model card and ONNX graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from captionkit.data.images import Preprocessing, open_image
from captionkit.data.layouts import CaptionSet
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import ImageError, one_line
from captionkit.inference.model_folder import CARD, TOKENIZER, WEIGHTS, ModelFolder, open_model, write_model
from captionkit.inference.word_confidence import WordConfidence
from captionkit.models.captioning_model import CaptioningModel
from captionkit.models.serialization import architecture, weights
from captionkit.training.config.decoding import DECODING
from captionkit.utils.provenance import versions

#: number of validation images on which the ONNX graphs are compared with torch
_COMPARED = 8


def save_model(
    path: Path,
    model: CaptioningModel,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    facts: dict[str, Any],
    calibration: WordConfidence,
    *,
    half: bool,
) -> ModelFolder:
    """Write a trained model as a model folder; `facts` is its provenance, `half` stores the weights in 16 bits."""
    provenance = {**facts, "versions": versions("torch", "transformers", "tokenizers", "numpy")}
    config = {
        "architecture": architecture(model, preprocessing),
        "preprocessing": preprocessing.to_dict(),
        "decoding": DECODING.to_dict(),
        "calibration": calibration.to_dict(),
        "provenance": provenance,
    }
    contents = {
        TOKENIZER: tokenizer.to_json().encode(),
        WEIGHTS: weights(model, half=half),
        CARD: _card(model, provenance).encode(),
    }
    return write_model(path, config, contents)


def export_best(path: Path, images: CaptionSet, *, half: bool) -> str:
    """Add ONNX graphs to a saved model, compared with torch on some `images`; return a message about the result.

    The trained model is left intact if the export fails.
    """
    by_hand = f"`captionkit export {path}` makes it run without torch"
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        return f"{by_hand}, once `pip install 'captionkit[train]'` has brought {' and '.join(missing)}"
    try:
        if not open_model(path).runnable:
            from captionkit.export.export_model import export_model

            photos = _readable(images)
            if not photos:
                raise ImageError(f"no image of {images.name}, split {images.split}, can be opened to compare on")
            export_model(path, images=photos, half=half)
    except Exception as error:  # torch's exporter raises many types, and none may lose a trained model
        return f"not exported ({_reason(error)}); {by_hand}"
    return f"try it: captionkit caption PHOTO --model {path}"


def _reason(error: BaseException) -> str:
    """Return one line with the error and its root cause, which torch's exporter shows only in the traceback."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    said = [one_line(one) for one in (error, first)]
    return ": ".join(dict.fromkeys(said))


def _readable(images: CaptionSet) -> list[Image.Image]:
    found: list[Image.Image] = []
    for example in images:
        if len(found) < _COMPARED:
            with suppress(ImageError):
                found.append(open_image(example.image))
    return found


def _decoding() -> str:
    return (
        f"beam {DECODING.num_beams}, length penalty {DECODING.length_penalty}, "
        f"no_repeat_ngram_size {DECODING.no_repeat_ngram_size}"
    )


def _card(model: CaptioningModel, facts: dict[str, Any]) -> str:
    """Return a Hub model card: front matter, description, and provenance."""
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    config, rows = model.config, "\n".join(f"| {name} | {value} |" for name, value in _made(facts))
    return f"""---
library_name: captionkit
pipeline_tag: image-to-text
tags:
- image-captioning
---

# {config.decoder.name} on {config.encoder.name}

Describes an image in a sentence. {parameters:.1f} million parameters.

    pip install captionkit
    captionkit caption photo.jpg --model .

## How it was made

| | |
|---|---|
{rows}

All of it is in `config.json` under `provenance`.
"""


def _made(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the rows of the card on how a model was made, by training or by averaging."""
    names = {"train": "training", "val": "validation"}
    images = (f"{number} {names[split]}" for split, number in facts["images"].items())
    yield "command", f"`{facts['command']}`"
    yield "data", f"{facts['data']['name']}, fingerprint `{facts['data']['fingerprint'][:16]}`"
    yield "images", ", ".join(images)
    at = ""
    if "recipe" in facts:
        yield "seed", str(facts["recipe"]["trainer"]["seed"])
        at = f" (epoch {facts['epoch']:.2f}, step {facts['step']})"
    yield "validation CIDEr-D", f"{facts['val_cider']:.4f}, of generated captions ({_decoding()})"
    if "val_clipscore" in facts:
        yield "validation CLIPScore", f"{facts['val_clipscore']:.4f}, by {facts['recipe']['trainer']['clip']}"
    yield "validation loss", f"{facts['val_loss']:.4f} nats per word{at}"
    for one in facts.get("candidates", ()):
        verdict = "averaged" if one["selected"] else "left out"
        yield f"model {one['name']}", f"{verdict}; alone CIDEr-D {one['val_cider']:.4f}; `{one['command']}`"
    if "minutes" in facts:
        yield "time", f"{facts['minutes']} minutes on {facts['device']}"
    yield "versions", ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
