"""What captionkit fits to a published model, such as its confidence, in a file of captionkit's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captionkit.errors import ModelError
from captionkit.utils import atomic_write, paths

_MARK = "captionkit_tables"
_MAX_BYTES = 4 << 20


def tables_path(folder: Path, name: str, *, cached: bool) -> Path:
    """Return the file for the model in `folder`: NAME.captionkit.json beside it.

    For one in the Hub's cache (`cached`), which is not written to, it is in captionkit's own cache.
    """
    if cached:
        return paths.cache_folder() / "models" / (re.sub(r"[^\w.-]+", "--", name) + ".json")
    folder = paths.real(folder)
    return folder.with_name(f"{folder.name}.captionkit.json")


def read_tables(path: Path) -> Mapping[str, Any]:
    """Return the stored tables; none if there is no file. Raises ModelError for a file that is not captionkit's."""
    if not paths.exists(path, ModelError):
        return {}
    try:
        found = json.loads(paths.read_text(path, ModelError, limit=_MAX_BYTES))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.pop(_MARK, None) != 1:
        raise ModelError(f"{paths.shown(path)}: was not written by captionkit; move it away")
    return found


def write_tables(path: Path, tables: Mapping[str, Any]) -> None:
    """Write the tables atomically. Raises CaptionkitError where something else is in the file's place."""
    read_tables(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic_write.cannot_write(path, error) from None
    atomic_write.write_text(path, json.dumps({_MARK: 1, **tables}, ensure_ascii=False, indent=1) + "\n")
