"""Getting a published model from the Hugging Face Hub: its JSON files and the graphs of one precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from captionkit.errors import ModelError
from captionkit.inference.model_folder import CARD, CONFIG, DECODER, ENCODER, TOKENIZER, WEIGHTS
from captionkit.inference.published.families import FAMILIES, check_runs
from captionkit.inference.published.folder import GENERATION, PREPROCESSOR, read_json
from captionkit.inference.published.graphs import graph_files, with_data

#: files of captionkit's own models; graphs of other precisions have suffixes
_OWN = (TOKENIZER, WEIGHTS, ENCODER, DECODER, "encoder_*.onnx", "decoder_*.onnx", CARD)
_JSON = (CONFIG, GENERATION, PREPROCESSOR, TOKENIZER)


def fetch(name: str, precision: str = "auto") -> Path:
    """Return the folder of the model `name`, "owner/name" or "owner/name@revision", in the Hub's cache.

    Files that are there already are not fetched again, and a fetch that was stopped goes on. Raises ModelError in one
    line: no such model or revision, a kind that cannot be run, no graphs of this precision.
    """
    from huggingface_hub import HfApi, snapshot_download

    repo, _, revision = name.partition("@")

    def snapshot(wanted: list[str]) -> Path:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=wanted))

    path = _asked(name, lambda: snapshot([CONFIG]))
    if not (path / CONFIG).is_file():
        raise ModelError(f"{name}: has no {CONFIG}, so it is no model that captionkit knows; check the id")
    config = read_json(path / CONFIG)
    if "format" in config:
        return _asked(name, lambda: snapshot([CONFIG, *_OWN]))
    check_runs(name, config)
    files: list[str] = []
    with suppress(Exception):  # without the Hub, what has been fetched before may be enough
        files = HfApi().list_repo_files(repo, revision=revision or None)
    if not files:
        return path
    try:
        graphs = graph_files(files, FAMILIES[str(config["model_type"])].graphs, precision)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    return _asked(name, lambda: snapshot([*_JSON, *with_data(files, graphs.values())]))


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
