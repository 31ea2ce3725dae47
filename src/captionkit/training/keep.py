"""The model folder that a run keeps, with its card."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from captionkit import __version__
from captionkit.bundle import CARD, TOKENIZER, WEIGHTS, ModelFolder, write_model
from captionkit.models.captioning import CaptioningModel
from captionkit.models.stored import architecture, weights
from captionkit.search import Decoding
from captionkit.training.recipe import Recipe
from captionkit.training.setup import Setup


def keep_model(path: Path, model: CaptioningModel, setup: Setup, recipe: Recipe, facts: dict[str, Any]) -> ModelFolder:
    """Write a trained model as a model folder; `facts` say how it was trained."""
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    versions |= {"captionkit": __version__, "python": platform.python_version()}
    provenance = {**facts, "recipe": recipe.to_dict(), "versions": versions}
    config = {
        "architecture": architecture(model, setup.preprocessing),
        "preprocessing": setup.preprocessing.to_dict(),
        "decoding": Decoding().to_dict(),
        "provenance": provenance,
    }
    contents = {
        TOKENIZER: setup.text.to_json().encode(),
        WEIGHTS: weights(model, half=recipe.run.half_weights),
        CARD: _card(model, provenance).encode(),
    }
    return write_model(path, config, contents)


def _card(model: CaptioningModel, facts: dict[str, Any]) -> str:
    """A Hub model card: front matter, what it is, how it was made."""
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    config, data = model.config, facts["data"]
    return f"""---
library_name: captionkit
pipeline_tag: image-to-text
tags:
- image-captioning
---

# {config.decoder.name} on {config.encoder.name}

Describes a picture in a sentence. {parameters:.1f} million parameters.

    pip install captionkit
    captionkit caption photo.jpg --model .

## Training

| | |
|---|---|
| command | `{facts["command"]}` |
| data | {data["name"]}, {facts["pictures"]["train"]} training and {facts["pictures"]["val"]} validation pictures, fingerprint `{data["fingerprint"][:16]}` |
| seed | {facts["recipe"]["run"]["seed"]} |
| validation loss | {facts["val_loss"]:.4f} nats per word (epoch {facts["epoch"]:.2f}, step {facts["step"]}) |
| time | {facts["minutes"]} minutes on {facts["device"]} |
| versions | {", ".join(f"{name} {value}" for name, value in facts["versions"].items())} |

The whole recipe is in `config.json` under `provenance`.
"""
