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
    #: whether it takes a prompt
    prompted: bool = False
    #: whether it is asked in a conversation
    chat: bool = False
    #: further files that it may need
    files: tuple[str, ...] = ()
    #: whether `captionkit import` converts it
    imported: bool = True


TOKENIZER_CONFIG, PROCESSOR_CONFIG = "tokenizer_config.json", "processor_config.json"
TEMPLATE, TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"
_DECODERS = (("decoder_model_merged",), ("decoder_model", "decoder_with_past_model"))
_CHAT = Family(
    (("vision_encoder", "embed_tokens"), *_DECODERS),
    256,
    prompted=True,
    chat=True,
    files=(TOKENIZER_CONFIG, PROCESSOR_CONFIG, TEMPLATE, TEMPLATE_JSON),
    imported=False,
)
#: `model_type` of a config -> how it is run
FAMILIES = {
    "vision-encoder-decoder": Family((("encoder_model",), *_DECODERS)),
    "florence2": Family((("vision_encoder", "embed_tokens", "encoder_model"), *_DECODERS), 256, prompted=True),
    "smolvlm": _CHAT,
    "idefics3": _CHAT,
}
#: kinds that `captionkit import` converts
_IMPORTED = ("blip", "blip-2", "git", *(kind for kind, family in FAMILIES.items() if family.imported))


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
    if kind in FAMILIES:
        raise ModelError(f"{name}: a transformers model ({kind}) without ONNX graphs; name one that has them")
    raise ModelError(
        f"{name}: a model of another kind ({kind}); captionkit runs its own and ONNX graphs of {', '.join(FAMILIES)}"
    )
