"""Environment of a run: package versions, machine, and the git commit if captionkit runs from a checkout."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

#: packages that affect results
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "pillow", "onnxruntime", "timm")
_PATIENCE = 10  # timeout of git, in seconds


def machine(device: torch.device) -> dict[str, Any]:
    """Describe device, processor and operating system; no host or user names, because reports are shared."""
    return {
        "device": str(device),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def source_state() -> dict[str, Any]:
    """Return the commit of captionkit's source and whether files differ from it; empty if it is not a checkout.

    To tell a checkout from a virtual environment inside some other repository, this checks that the package's own
    `__init__.py` is under version control.
    """
    package = Path(__file__).resolve().parents[2]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {}
    commit, changed = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return {} if commit is None or changed is None else {"commit": commit.strip(), "changed": bool(changed.strip())}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git; None if it is not installed, times out or fails."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, text=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
