"""One process or several, and the precision of the forward pass, through Accelerate."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import nn

from captionkit.errors import RecipeError, TrainingError
from captionkit.models.captioning_model import CaptioningModel
from captionkit.training.run.progress import Progress

#: how long processes wait for one another: as long as the main one may take over the features of a frozen encoder
_PATIENCE = timedelta(hours=12)


def make_accelerator(precision: str, model: CaptioningModel, *, thawing: bool = False) -> Accelerator:
    """Accelerate, set up for `model`, of which parts wait to be thawed if it is `thawing`.

    Raises RecipeError for a precision that the device lacks.
    """
    # Transformers backbones have parts, such as poolers, that the grid does not need and that get no gradient; and so
    # has an encoder that is frozen yet, whose parameters the processes must agree on from the start.
    unused = (bool(model.config.encoder.backbone) or thawing) and not model.encoder.frozen
    # Unless told, processes that were launched together on a machine without a GPU would not know of one another.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = several and not getattr(torch, "accelerator", torch.cuda).is_available()
    AcceleratorState._reset_state()  # a second run in one program may ask for another precision
    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=precision,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=_PATIENCE),
                DistributedDataParallelKwargs(find_unused_parameters=unused),
            ],
        )
    except ValueError as error:
        raise _lacking(precision, str(error).strip().splitlines()[0]) from None
    if precision != "no" and not accelerator.native_amp:  # Accelerate leaves fp16 out on a processor without a word
        raise _lacking(precision, f"the device is {accelerator.device}")
    return accelerator


def refuse_several(command: str) -> None:
    """Raise TrainingError for a command that runs in one process, but was launched in several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError(f"captionkit {command} runs in one process; start it without accelerate launch or torchrun")


def _lacking(precision: str, reason: str) -> RecipeError:
    return RecipeError(f"run.precision = {precision!r}: not on this machine ({reason}); use 'bf16' or 'no'")


def share_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Give all processes the norm statistics of the main one, whose model is kept."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def note_scale(accelerator: Accelerator, progress: Progress) -> None:
    """Put fp16's loss scale into `progress`."""
    if accelerator.scaler is not None:
        state = accelerator.scaler.state_dict()
        progress.loss_scale, progress.loss_scale_steps = state["scale"], state["_growth_tracker"]


def restore_scale(accelerator: Accelerator, progress: Progress) -> None:
    """Take fp16's loss scale out of `progress`."""
    if accelerator.scaler is not None and progress.loss_scale:
        state = accelerator.scaler.state_dict()
        state |= {"scale": progress.loss_scale, "_growth_tracker": progress.loss_scale_steps}
        accelerator.scaler.load_state_dict(state)
