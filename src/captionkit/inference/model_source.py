"""Finding a model by what a user names: a folder, a Hub id or a known name, of captionkit or published by others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.model_folder import CONFIG, ModelFolder, is_hub_id, open_model
from captionkit.utils import paths

if TYPE_CHECKING:
    from captionkit.inference.published.folder import PublishedFolder

_MAX_CONFIG_BYTES = 4 << 20


def open_source(
    source: str | os.PathLike[str] | None, *, precision: str = "auto", style: str = ""
) -> ModelFolder | PublishedFolder:
    """Open the folder of a model. Raises ModelError, and CaptionkitError for a `style` that it does not have."""
    name = "bundled" if source is None else str(source)
    path = Path(name)
    known = ""
    if name != "bundled" and not paths.exists(path, ModelError):
        from captionkit.inference.published.hub import fetch
        from captionkit.inference.published.known_models import hub_id_of

        known = hub_id_of(name)
        if is_hub_id(known or name):
            path = fetch(known or name, precision)
            known = known or name
    config = {} if name == "bundled" else _config(path)
    from_elsewhere = bool(config) and "format" not in config
    if from_elsewhere and config.get("model_type"):
        return _published(path, config, precision, style, known)
    if style:
        raise CaptionkitError(f"{paths.shown(name)}: has one style of captions; leave out the style")
    return open_model(source if path == Path(name) else path).with_precision(precision)


def _published(path: Path, config: Mapping[str, Any], precision: str, style: str, name: str) -> PublishedFolder:
    from captionkit.inference.published.families import check_runs
    from captionkit.inference.published.folder import PublishedFolder

    check_runs(paths.shown(path), config, path)
    return PublishedFolder(path, config, precision=precision, style=style, name=name)


def _config(path: Path) -> Mapping[str, Any]:
    """Return the config of a folder; nothing where there is none that can be read, which `open_model` reports."""
    try:
        found = json.loads(paths.read_text(path / CONFIG, ModelError, limit=_MAX_CONFIG_BYTES))
    except (ModelError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
