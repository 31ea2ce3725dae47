"""The JSON files of a published model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captionkit.errors import ModelError
from captionkit.utils import paths

_MAX_BYTES = 64 << 20  # of a tokenizer


def read_json(path: Path) -> Mapping[str, Any]:
    """Return a JSON object from a file. Raises ModelError."""
    try:
        found = json.loads(paths.read_text(path, ModelError, limit=_MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{paths.shown(path)}: not JSON ({error}); get the model again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{paths.shown(path)}: not a JSON object; get the model again")
    return found
