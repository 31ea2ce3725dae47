"""Save and load models in model folders: the architecture in `config.json`, the weights in `model.safetensors`."""

from __future__ import annotations

import dataclasses
import json
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from captionkit.data.images import Preprocessing
from captionkit.errors import ModelError
from captionkit.inference.model_folder import WEIGHTS, ModelFolder
from captionkit.models.captioning_model import CaptioningModel, ModelConfig
from captionkit.models.decoder_config import decoder_config
from captionkit.models.encoder import EncoderConfig


def architecture(model: CaptioningModel, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the `architecture` section of a model's config."""
    grid = model.encoder.grid(preprocessing.height, preprocessing.width)
    return {**dataclasses.asdict(model.config), "grid": list(grid)}


def weights(model: CaptioningModel, *, half: bool = False) -> bytes:
    """Return the content of `model.safetensors`; `half` stores floats in 16 bits."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    return save(tensors, metadata={"format": "pt"})


def stores_half(folder: ModelFolder) -> bool:
    """Return whether a folder's weights are stored in 16 bits, according to the header of the file."""
    content = folder.read(WEIGHTS)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    kinds = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    return "F32" not in kinds and bool(kinds & {"F16", "BF16"})


def load_model(folder: ModelFolder) -> CaptioningModel:
    """Load the model of a folder, frozen encoder, in 32 bits and in evaluation mode.

    Raises ModelError if the architecture cannot be built or the weights do not fit it.
    """
    try:
        model = CaptioningModel(_model_config(folder.section("architecture")), len(folder.tokenizer))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # missing, unknown or invalid fields
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise ModelError(f"{folder.path}: its architecture cannot be built ({reason}); get the model again") from None
    content = folder.read(WEIGHTS)
    try:
        stored = {name: t.float() if t.is_floating_point() else t for name, t in load(content).items()}
        model.load_state_dict(stored)
    except (SafetensorError, RuntimeError) as error:
        reason = shorten(str(error).splitlines()[-1], 200)
        raise ModelError(f"{folder.path / WEIGHTS}: does not fit the architecture ({reason}); get it again") from None
    model.encoder.train_from(None)
    return model.eval()


def _model_config(stored: dict[str, Any]) -> ModelConfig:
    values = {name: value for name, value in stored.items() if name != "grid"}
    encoder, decoder = EncoderConfig(**values.pop("encoder")), decoder_config(values.pop("decoder"))
    return ModelConfig(encoder=encoder, decoder=decoder, **values)


def default_device() -> torch.device:
    """Return the accelerator (CUDA, then MPS) if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
