"""What a run was made with: versions, the machine, and the commit where captionkit runs from its source."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from captionkit import __version__

_PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "pillow", "onnxruntime", "timm")
_PATIENCE = 10  # seconds for git


def versions() -> dict[str, str]:
    """Versions of captionkit, Python and what decides the figures; a package that is not installed is left out."""
    found = {"captionkit": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """The device, the processor and the operating system. No names of hosts or users: reports are shown around."""
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
    """The commit of captionkit's source, and whether files differ from it; empty where it is installed otherwise.

    That the package's own file is under version control is what tells a checkout from a virtual environment that lies
    inside some other repository.
    """
    package = Path(__file__).resolve().parents[2]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {}
    commit, changed = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return {} if commit is None or changed is None else {"commit": commit.strip(), "changed": bool(changed.strip())}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where it is missing, slow, or says no."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, text=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
