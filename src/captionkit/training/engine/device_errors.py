"""What torch raises when a device or another process fails in the middle of a step, in the words of a user."""

from __future__ import annotations

import re

import torch

_DEVICE = re.compile(r"CUDA error|device-side assert|CUDA driver|cuDNN error|CUDNN_STATUS|CUBLAS_STATUS|HIP error|MPS")
_PROCESS = re.compile(
    r"connection (?:closed|reset|refused)|broken pipe|socket|NCCL|gloo|timed out|process ?group|barrier", re.IGNORECASE
)


def explain(error: RuntimeError) -> str | None:
    """What failed and why, as the beginning of a sentence; None where it is neither a device nor a process.

    A device that has failed once in a process cannot be used in it again, so nothing is to be read from it then.
    """
    # After a place in torch's sources, perhaps, comes what is known, and then advice for programmers.
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    reason = re.sub(r"^\[\S+:\d+\] ", "", first).partition(". ")[0]
    if isinstance(error, getattr(torch, "AcceleratorError", ())) or _DEVICE.search(str(error)):
        return f"the device failed ({reason})"
    distributed = getattr(torch.distributed, "DistError", ())
    if isinstance(error, distributed) or (_several() and _PROCESS.search(str(error))):
        return f"another process of this run is gone or out of reach ({reason})"
    return None


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
