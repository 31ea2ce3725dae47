"""Getting a published model from the Hugging Face Hub: its JSON files and the graphs of one precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from captionkit.errors import ModelError
from captionkit.inference.model_folder import CARD, CONFIG, DECODER, ENCODER, TOKENIZER, WEIGHTS
from captionkit.inference.published.families import FAMILIES, check_runs
from captionkit.inference.published.folder import GENERATION, PREPROCESSOR
from captionkit.inference.published.graphs import graph_files, with_data
from captionkit.inference.published.json_files import read_json

#: files of captionkit's own models; graphs of other precisions have suffixes
_OWN = (TOKENIZER, WEIGHTS, ENCODER, DECODER, "encoder_*.onnx", "decoder_*.onnx", CARD)
_JSON = (CONFIG, GENERATION, PREPROCESSOR, TOKENIZER)


def fetch(name: str, precision: str = "auto") -> Path:
    """Return the folder of the model `name`, "owner/name" or "owner/name@revision", in the Hub's cache.

    Files that are there already are not fetched again, and a fetch that was stopped goes on. Raises ModelError in one
    line: no such model or revision, a kind that cannot be run, no graphs of this precision.
    """
    path = _asked(name, lambda: _snapshot(name, [CONFIG]))
    if not (path / CONFIG).is_file():
        raise ModelError(f"{name}: has no {CONFIG}, so it is no model that captionkit knows; check the id")
    config = read_json(path / CONFIG)
    if "format" in config:
        return Path(_asked(name, lambda: _snapshot(name, [CONFIG, *_OWN])))
    check_runs(name, config)
    family = FAMILIES[str(config["model_type"])]
    return _with_graphs(name, path, family.graphs, precision, family.files)


def fetch_graphs(name: str, layouts: Sequence[Sequence[str]], precision: str = "auto") -> Path:
    """Return the folder of the model `name` in the Hub's cache, with the graphs of the `layouts` (see `graph_files`).

    Raises ModelError as `fetch` does.
    """
    return _with_graphs(name, _asked(name, lambda: _snapshot(name, [CONFIG])), layouts, precision)


def _with_graphs(
    name: str, path: Path, layouts: Sequence[Sequence[str]], precision: str, others: Sequence[str] = ()
) -> Path:
    files = list_files(name)
    if not files:
        return path
    try:
        graphs = graph_files(files, layouts, precision)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    return Path(_asked(name, lambda: _snapshot(name, [*_JSON, *others, *with_data(files, graphs.values())])))


def list_files(name: str) -> list[str]:
    """Return the files of a model on the Hub; none without the Hub, where what was fetched before may be enough."""
    from huggingface_hub import HfApi

    repo, _, revision = name.partition("@")
    with suppress(Exception):
        return list(HfApi().list_repo_files(repo, revision=revision or None))
    return []


def _snapshot(name: str, wanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    return Path(snapshot_download(repo, revision=revision or None, allow_patterns=wanted))


def _asked(name: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:  # the Hub raises many kinds; all mean that there is no model to be had
        repo, _, revision = name.partition("@")
        login = "log in with `hf auth login`"
        reasons = {
            "RevisionNotFoundError": f"{repo} has no revision {revision!r} on the Hub; name another",
            "RepositoryNotFoundError": f"{repo} is not on the Hub, or private; check the id, or {login}",
            "GatedRepoError": f"{repo} asks for consent on its page on the Hub; give it there, then {login}",
        }
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        known = reasons.get(type(error).__name__)
        raise ModelError(known or f"{name}: no such folder, and not to be had from the Hub ({first})") from None
