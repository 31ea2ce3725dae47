"""torch.compile for the parts of the network that dominate the runtime."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch._dynamo.exc import TorchDynamoException

from captionkit.errors import RecipeError, TrainingError, one_line
from captionkit.models.captioning_model import CaptioningModel
from captionkit.training.config.schema import TrainerRecipe

_COMPILERS = ("g++", "clang++", "c++", "cl")


def check_compiler(trainer: TrainerRecipe, device: torch.device) -> None:
    """Raise RecipeError if trainer.compile is set, but this machine or the rest of the recipe does not allow it."""
    if not trainer.compile:
        return
    if trainer.gradient_checkpointing:
        raise RecipeError("trainer.compile and trainer.gradient_checkpointing exclude each other; leave one out")
    named = os.environ.get("CXX")
    if not any(map(shutil.which, [named] if named else _COMPILERS)):
        looked = f"$CXX = {named}" if named else ", ".join(_COMPILERS)
        raise RecipeError(f"trainer.compile: there is no C++ compiler ({looked}); install g++, or leave it out")
    if device.type == "cuda" and find_spec("triton") is None:
        raise RecipeError("trainer.compile: triton is not installed; `pip install triton`, or leave it out")


def compile_parts(model: CaptioningModel) -> None:
    """Compile the encoder, if it is trained, and the decoder's blocks; parameter names do not change.

    Compilation happens on the first call. The rest of the decoder is not compiled: it loops over words, or its shapes
    depend on the captions of each batch.
    """
    if not model.encoder.frozen:
        model.encoder.compile()
    for block in model.decoder.blocks:
        block.compile(dynamic=True)


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Convert torch.compile failures into a TrainingError."""
    try:
        yield
    except TorchDynamoException as error:
        reason = one_line(error)[:200]
        raise TrainingError(f"torch.compile failed ({reason}); start again without trainer.compile") from None
