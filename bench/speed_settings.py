"""Where and how `bench/speed.py` measured: what a reader must know to judge the figures."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a reader must know to judge the figures; the command without what it writes."""
    named = {
        "--photos": options.photos,
        "--only": options.only,
        "--rounds": options.rounds,
        "--threads": options.threads,
    }
    given = [("--model", model) for model in options.model] + [(flag, value) for flag, value in named.items() if value]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "command": shlex.join(["python", "bench/speed.py", *(str(part) for pair in given for part in pair)]),
        "processor": _processor(),
        "threads": options.threads,
        "rounds": options.rounds,
        "photos": f"Images of {options.photos}" if options.photos else "Made-up JPEGs of 640 x 480",
        "load": load,
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *map(_version, ("onnxruntime", "torch", "transformers"))]
        ),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
