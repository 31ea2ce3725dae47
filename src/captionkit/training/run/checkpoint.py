"""Checkpoints: everything needed to resume a run bit for bit, in one safetensors file written atomically.

The state of random generators is not stored: every step seeds its own (see `train_step`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from captionkit.errors import TrainingError
from captionkit.training.run.progress import Progress
from captionkit.utils import atomic_write


def save_checkpoint(
    path: Path, progress: Progress, fingerprint: str, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Write a run's state. `fingerprint` identifies the recipe and the data that it belongs to."""
    tensors = {
        f"{prefix}/{name}": tensor for prefix, model in models.items() for name, tensor in model.state_dict().items()
    }
    tensors |= {f"optimizer/{name}": tensor for name, tensor in _optimizer_tensors(optimizer)}
    metadata = {"progress": json.dumps(asdict(progress)), "fingerprint": fingerprint}
    atomic_write.write_bytes(path, save({name: _plain_copy(tensor) for name, tensor in tensors.items()}, metadata))


def _plain_copy(tensor: Tensor) -> Tensor:
    # safetensors supports neither shared memory (the EMA shares frozen parameters with the model) nor channels-last.
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def load_checkpoint(
    path: Path, fingerprint: str, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> Progress:
    """Load a checkpoint into `models` and `optimizer`; return its progress.

    Raises TrainingError if it is damaged or belongs to another recipe or dataset.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        remedy = f"start again with --init {path.parent / 'best'} and a new --output"
        raise TrainingError(f"{path}: damaged checkpoint ({error}); {remedy}") from None
    if metadata.get("fingerprint") != fingerprint:
        raise TrainingError(
            f"{path}: made with another recipe, dataset or captionkit; resume with the same, or give a new --output"
        )
    try:
        for prefix, model in models.items():
            model.load_state_dict(_under(tensors, prefix))
        _restore_optimizer(optimizer, _under(tensors, "optimizer"))
        progress = json.loads(metadata["progress"])
        if "harm" in progress:  # its earlier name
            progress["collapse"] = progress.pop("harm")
        return Progress(**progress)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise TrainingError(f"{path}: made with another captionkit ({reason}); resume with the same") from None


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, Tensor]]:
    return enumerate(parameter for group in optimizer.param_groups for parameter in group["params"])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for index, parameter in _parameters(optimizer):
        for name, value in optimizer.state[parameter].items():
            yield f"{index}/{name}", torch.as_tensor(value)


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    for index, parameter in _parameters(optimizer):
        if stored := _under(tensors, str(index)):
            optimizer.state[parameter] = {
                name: value if name == "step" else _restored(value, parameter)  # step counts stay on the CPU
                for name, value in stored.items()
            }


def _restored(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a stored state tensor on the parameter's device, and in its memory layout if the shapes are equal.

    Shapes may differ, as those of Adafactor's factored moments do.
    """
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
