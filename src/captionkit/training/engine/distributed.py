"""Distributed processes and mixed precision, through Accelerate."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import nn

from captionkit.errors import RecipeError, TrainingError, one_line
from captionkit.models.captioning_model import CaptioningModel
from captionkit.training.run.progress import Progress

#: timeout of collective operations: must cover the time in which the main process computes frozen-encoder features
_PATIENCE = timedelta(hours=12)


def make_accelerator(precision: str, model: CaptioningModel, *, unfreezing: bool = False) -> Accelerator:
    """Create the Accelerator for `model`; `unfreezing` says that parts of the encoder will be unfrozen during the run.

    Raises RecipeError if the device does not support `precision`.
    """
    # Transformers backbones have parts, such as poolers, that are not used for the grid and get no gradient. The same
    # holds for stages that are still frozen, whose parameters DDP must register from the start.
    unused = (bool(model.config.encoder.backbone) or unfreezing) and not model.encoder.frozen
    # Without cpu=True, Accelerate would not form a process group on a machine without a GPU.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = several and not getattr(torch, "accelerator", torch.cuda).is_available()
    AcceleratorState._reset_state()  # a second run in the same program may use another precision
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
        raise _lacking(precision, one_line(error)) from None
    if precision != "no" and not accelerator.native_amp:  # Accelerate silently ignores fp16 on a CPU
        raise _lacking(precision, f"the device is {accelerator.device}")
    return accelerator


def refuse_several(command: str) -> None:
    """Raise TrainingError if a single-process command was launched in several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError(f"captionkit {command} runs in one process; start it without accelerate launch or torchrun")


def _lacking(precision: str, reason: str) -> RecipeError:
    return RecipeError(f"trainer.precision = {precision!r}: not on this machine ({reason}); use 'bf16' or 'no'")


def share_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Broadcast the buffers (norm statistics) of the main process, whose model is saved, to all ranks."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def note_scale(accelerator: Accelerator, progress: Progress) -> None:
    """Store the fp16 loss scale in `progress`."""
    if accelerator.scaler is not None:
        state = accelerator.scaler.state_dict()
        progress.loss_scale, progress.loss_scale_steps = state["scale"], state["_growth_tracker"]


def restore_scale(accelerator: Accelerator, progress: Progress) -> None:
    """Restore the fp16 loss scale from `progress`."""
    if accelerator.scaler is not None and progress.loss_scale:
        state = accelerator.scaler.state_dict()
        state |= {"scale": progress.loss_scale, "_growth_tracker": progress.loss_scale_steps}
        accelerator.scaler.load_state_dict(state)
