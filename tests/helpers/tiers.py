"""Which tests are quick: everything that is not marked `slow` (see CONTRIBUTING.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow(*cases: Any) -> Iterable[Any]:
    """Cases of a parametrized test that are left to the slow tier, beside the one or two that the quick tier keeps."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]
