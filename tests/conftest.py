"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real pictures and pretrained weights; tests that want it are skipped where it is not."""
    root = Path(os.environ.get("CAPTIONKIT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"no shared data at {root}; set CAPTIONKIT_SHARED to a folder with data/ and weights/")
    return root
