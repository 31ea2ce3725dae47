"""The models that are at hand or known by name, and what each can do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captionkit.errors import CaptionkitError
from captionkit.inference.model_folder import CARD, ModelFolder, open_model
from captionkit.inference.published.families import FAMILIES
from captionkit.inference.published.json_files import read_json
from captionkit.inference.published.known_models import KNOWN
from captionkit.utils.text_table import text_table

_LICENSE = re.compile(r"^license(?:_name)?: *(\S+)", re.MULTILINE)
_HEAD = 1 << 16  # bytes of a card that may hold its license


@dataclass(frozen=True)
class ListedModel:
    """A model that can be named. `where`: bundled, cached, hub, or import for one that `captionkit import` converts."""

    name: str
    where: str
    megabytes: int
    license: str
    #: scores that were measured or published; "" if none
    quality: str
    can: tuple[str, ...]
    hub_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def list_models() -> list[ListedModel]:
    """Return the bundled model, those in the Hub's cache, and those known by name that are not there yet."""
    cached = {model.hub_id: model for model in _cached()}
    found = [_described(open_model(), "bundled", "bundled", "")]
    for name, known in KNOWN.items():
        here = cached.pop(known.hub_id, None)
        where = "cached" if here else "hub" if known.run else "import"
        size = here.megabytes if here else known.megabytes
        can = ("words", *known.can)
        found.append(ListedModel(name, where, size, known.license, known.quality, can, known.hub_id))
    return [*found, *cached.values()]


def _described(folder: ModelFolder, name: str, where: str, hub_id: str) -> ListedModel:
    size = sum(entry["bytes"] for entry in folder.config["files"].values())
    can = ("words", *(("attention",) if folder.grid != (0, 0) else ()), *(("confidence",) if folder.confidence else ()))
    return ListedModel(
        name, where, _megabytes(size), _license_in(folder.path / CARD), _quality(folder.config), can, hub_id
    )


def _quality(config: Mapping[str, Any]) -> str:
    """Return the validation score that a model folder holds: of its 8-bit graphs, or of the model before them."""
    tuning, steps = config.get("tuning", {}), config.get("int8", {}).get("steps", [])
    score = steps[-1].get("cider") if steps else tuning.get("best", {}).get("CIDEr-D")
    data = tuning.get("data", {}).get("name", "")
    return "" if score is None else f"CIDEr-D {score:.3f} ({f'{data} val'.strip()})"


def _cached() -> Iterator[ListedModel]:
    """Yield the models in the Hub's cache that captionkit can run."""
    for repo in sorted(_cache().glob("models--*")):
        hub_id = repo.name.removeprefix("models--").replace("--", "/", 1)
        for snapshot in sorted((repo / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime)[-1:]:
            with suppress(CaptionkitError, OSError):
                config = read_json(snapshot / "config.json")
                if "format" in config:
                    yield _described(open_model(snapshot), hub_id, "cached", hub_id)
                elif config.get("model_type") in FAMILIES and [*snapshot.rglob("*.onnx")]:
                    size = sum(path.stat().st_size for path in snapshot.rglob("*") if path.is_file())
                    styles = ("style",) if FAMILIES[config["model_type"]].prompted else ()
                    license_ = _license_in(snapshot / CARD)
                    yield ListedModel(hub_id, "cached", _megabytes(size), license_, "", ("words", *styles), hub_id)


def _cache() -> Path:
    """Return the Hub's cache, where huggingface_hub looks for it; importing that takes longer than the list."""
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(name):
            return Path(os.environ[name]) / below
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "huggingface" / "hub"


def _license_in(card: Path) -> str:
    """Return the license that a model's card names; "" if none."""
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            found = _LICENSE.findall(file.read(_HEAD).partition("\n---")[0])
    except OSError:
        return ""
    return found[-1] if found else ""


def _megabytes(size: int) -> int:
    return max(1, round(size / 1e6))


def models_table(models: list[ListedModel]) -> str:
    """Return the list as a table."""
    rows = [("name", "where", "MB", "license", "can", "published quality")]
    rows += [(m.name, m.where, f"{m.megabytes:,}", m.license or "unknown", ", ".join(m.can), m.quality) for m in models]
    return "\n".join(text_table(rows, left=(0, 1, 3, 4, 5)))
