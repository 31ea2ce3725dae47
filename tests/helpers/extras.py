"""What a test needs and a machine may lack."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def require(module: str, reason: str) -> None:
    """Skip the test, or the file that is being collected, where `module` is not installed.

    Unlike `pytest.importorskip`, it imports nothing: gradio alone takes longer to import than all tests to collect.
    """
    if find_spec(module) is None:
        pytest.skip(reason, allow_module_level=True)
