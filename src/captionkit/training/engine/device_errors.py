"""User-readable explanations of what torch raises when a device or another process fails during a step."""

from __future__ import annotations

import re

import torch

from captionkit.errors import one_line

_DEVICE = re.compile(r"CUDA error|device-side assert|CUDA driver|cuDNN error|CUDNN_STATUS|CUBLAS_STATUS|HIP error|MPS")
_PROCESS = re.compile(
    r"connection (?:closed|reset|refused)|broken pipe|socket|NCCL|gloo|timed out|process ?group|barrier", re.IGNORECASE
)


def explain(error: RuntimeError) -> str | None:
    """Return what failed and why, as the beginning of a sentence; None if it is neither a device nor a process.

    A device that has failed cannot be used again in the same process, so nothing may be read from it afterwards.
    """
    # The message is an optional location in torch's sources, then the cause, then advice for developers.
    reason = re.sub(r"^\[\S+:\d+\] ", "", one_line(error)).partition(". ")[0]
    if isinstance(error, getattr(torch, "AcceleratorError", ())) or _DEVICE.search(str(error)):
        return f"the device failed ({reason})"
    distributed = getattr(torch.distributed, "DistError", ())
    if isinstance(error, distributed) or (_several() and _PROCESS.search(str(error))):
        return f"another process of this run is gone or out of reach ({reason})"
    return None


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
