"""What a result was made with: the command, and the versions of captionkit, Python and packages."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version

from captionkit import __version__


def command_line() -> str:
    """Return the command that started this process, as it can be typed again."""
    return shlex.join(["captionkit", *sys.argv[1:]])


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of captionkit, Python and those of `packages` that are installed."""
    found = {name: _version(name) for name in packages}
    return {
        "captionkit": __version__,
        "python": platform.python_version(),
        **{name: value for name, value in found.items() if value},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # onnxruntime may be installed as onnxruntime-gpu
        return str(getattr(sys.modules.get(package), "__version__", ""))
