"""The kinds of published models that can be run, and what is said of those that cannot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from captionkit.errors import ModelError


class Family(NamedTuple):
    """A kind of published model that can be run."""

    #: layouts of graph files, see `graph_files`
    graphs: tuple[tuple[str, ...], ...]
    #: most tokens of a caption where the folder does not limit them; None: as transformers
    length: int | None = None
    #: whether it is told what to say
    prompted: bool = False


_DECODERS = (("decoder_model_merged",), ("decoder_model", "decoder_with_past_model"))
#: `model_type` of a config -> how it is run
FAMILIES = {
    "vision-encoder-decoder": Family((("encoder_model",), *_DECODERS)),
    "florence2": Family((("vision_encoder", "embed_tokens", "encoder_model"), *_DECODERS), 256, prompted=True),
}
#: kinds that `captionkit import` converts
_IMPORTED = ("blip", "blip-2", "git", *FAMILIES)


def check_runs(name: str, config: Mapping[str, Any], path: Path | None = None) -> None:
    """Raise ModelError, saying what the model is and what to do, unless its kind can be run.

    `path` is its folder, if it is here, where graphs are looked for.
    """
    kind = str(config.get("model_type"))[:60]
    if kind in FAMILIES and (path is None or any(path.glob("*.onnx")) or any(path.glob("onnx/*.onnx"))):
        return
    if kind in _IMPORTED:
        raise ModelError(
            f"{name}: a transformers model ({kind}) without ONNX graphs; run `captionkit import {name} --output FOLDER`"
        )
    raise ModelError(
        f"{name}: a model of another kind ({kind}); captionkit runs its own and ONNX graphs of {', '.join(FAMILIES)}"
    )
