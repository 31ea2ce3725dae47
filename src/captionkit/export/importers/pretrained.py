"""Fetch a captioner of transformers, from a folder or the Hub, and read all that an import needs of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from captionkit.data.images import Preprocessing
from captionkit.errors import CaptionkitError, ModelError
from captionkit.export.importers.families import FAMILIES, Imported, Request
from captionkit.inference.published.florence2 import PROMPTS
from captionkit.inference.published.generation import Generation, read_generation
from captionkit.models.huggingface import published_preprocessing, quiet, reason_of
from captionkit.utils import paths

#: the class of transformers that generates captions, by model type
_CLASSES = {
    "blip": "BlipForConditionalGeneration",
    "git": "GitForCausalLM",
    "vision-encoder-decoder": "VisionEncoderDecoderModel",
    "blip-2": "Blip2ForConditionalGeneration",
    "florence2": "Florence2ForConditionalGeneration",
}
#: what is fetched from the Hub; weights in safetensors only, nothing pickled
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]
#: tokens of a caption where its makers name no number
_LONGEST = 30


@dataclass(frozen=True)
class Origin:
    """Where a model comes from."""

    path: Path
    #: the Hub id, or the folder's name
    id: str
    #: the commit on the Hub; None for a folder
    revision: str | None
    #: as its model card says; None where it says nothing
    license: str | None

    def to_dict(self) -> dict[str, str]:
        """Return what the config stores."""
        known = {"id": self.id, "revision": self.revision, "license": self.license}
        return {name: value for name, value in known.items() if value}


@dataclass(frozen=True)
class Pretrained:
    """A captioner of transformers, ready to export, beside the network that it was read from."""

    origin: Origin
    kind: str
    network: Any
    tokenizer: Any
    imported: Imported
    preprocessing: Preprocessing
    #: how its makers generate
    generation: Generation


def read_pretrained(source: str, *, style: str = "short") -> Pretrained:
    """Read a captioner from a folder that transformers saved, or from the Hub as `owner/name` or `owner/name@revision`.

    `style` chooses Florence-2's caption task. Raises ModelError for a model of an unknown kind, or an incomplete one.
    """
    origin = _found(source)
    kind = _kind(origin.path)
    if style not in PROMPTS:
        raise CaptionkitError(f"style {style!r} is unknown; use {', '.join(PROMPTS)}")
    if style != "short" and kind != "florence2":
        raise CaptionkitError(f"style {style!r} is for Florence-2, and {origin.id} is a {kind}; leave it out")
    network, tokenizer = _loaded(origin.path, kind)
    preprocessing = _preprocessing(origin.path, _vision(network))
    request = Request(network, tokenizer, preprocessing.height, preprocessing.width, style)
    try:
        imported = FAMILIES[kind](request)
        generation = _generation(network, imported)
    except ModelError as error:
        raise ModelError(f"{origin.path}: {error}") from None
    return Pretrained(origin, kind, network, tokenizer, imported, preprocessing, generation)


def _found(source: str) -> Origin:
    path = Path(source)
    if paths.exists(path, ModelError):
        return Origin(path, paths.real(path).name, None, _license(path))
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    try:
        place = Path(snapshot_download(name, revision=revision or None, allow_patterns=_FILES))
    except Exception as error:  # the Hub raises many kinds; all mean that there is no model to be had
        raise ModelError(f"{source}: no such folder, and not to be had from the Hub ({reason_of(error)})") from None
    return Origin(place, name, place.name, _license(place))


def _license(path: Path) -> str | None:
    from huggingface_hub import ModelCard

    try:
        found = ModelCard.load(path / "README.md").data.license
    except Exception:  # without a card, or with a damaged one, the licence is not known
        return None
    return found if isinstance(found, str) else None


def _kind(path: Path) -> str:
    import json

    place = path / "config.json"
    if not paths.exists(place, ModelError):
        raise ModelError(f"{path}: has no config.json; name a folder that transformers' save_pretrained wrote")
    try:
        config = json.loads(paths.read_text(place, ModelError, limit=4 << 20))
        kind = config["model_type"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelError(f"{place}: is no config of transformers; get the model again") from None
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError(f"{path}: is of the kind {kind!r}; kinds that can be imported: {known}")
    named = config.get("architectures") or [_CLASSES[kind]]
    if _CLASSES[kind] not in named:
        raise ModelError(f"{path}: is a {named[0]}, which makes no captions; name a {_CLASSES[kind]}")
    return str(kind)


def _loaded(path: Path, kind: str) -> tuple[Any, Any]:
    """Load network and tokenizer in 32 bits, from safetensors alone, running no code of the model's own."""
    import torch
    import transformers

    if not any(path.glob("*.safetensors")):
        raise ModelError(
            f"{path}: has no weights in safetensors, and pickled ones are not loaded; name a revision that has them, "
            "such as MODEL@refs/pr/N, or convert them with the Hub's space safetensors/convert"
        )
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
    try:
        with quiet():
            load = getattr(transformers, _CLASSES[kind]).from_pretrained
            network, info = load(path, output_loading_info=True, local_files_only=True, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds of errors; all mean that loading failed
        raise ModelError(f"{path}: transformers cannot load it ({reason_of(error)}); get the model again") from None
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{path}: has no weights for {missing[0]} ({len(missing)} missing); get the model again")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(f"{path}: its tokenizer has no fast form; save it with a tokenizer.json")
    return network.eval(), tokenizer


def _vision(network: Any) -> nn.Module:
    """Return the network's vision part, whose config says what images it takes."""
    body = getattr(network, "git", network)
    names = ("vision_model", "image_encoder", "encoder")
    return next((getattr(body, name) for name in names if hasattr(body, name)), network)


def _preprocessing(path: Path, vision: nn.Module) -> Preprocessing:
    """Return the preprocessing of the folder's image processor, which resizes or crops to a fixed size."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        stored: Mapping[str, Any] = ImageProcessingMixin.get_image_processor_dict(path, local_files_only=True)[0]
    except (OSError, ValueError):
        raise ModelError(
            f"{path}: has no preprocessor_config.json, which says how images are resized and normalised; "
            "copy that of the model it was made of"
        ) from None
    found = published_preprocessing(os.fspath(path), vision)
    return replace(found, fit="crop") if stored.get("do_center_crop") else found


def _generation(network: Any, imported: Imported) -> Generation:
    """Return how the makers generate; BLIP and BLIP-2 by their language model's generation config."""
    text = getattr(network, "text_decoder", None) or getattr(network, "language_model", None)
    found = {name: value for name, value in (text or network).generation_config.to_dict().items() if value is not None}
    found |= {"decoder_start_token_id": imported.start[0], "eos_token_id": imported.end}
    generation = read_generation(found, length=_LONGEST)
    special = generation.special
    return generation._replace(special=special._replace(start=(*imported.start, *special.start[1:])))
