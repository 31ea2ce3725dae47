"""Models that are known by name: where they are, what they may be used for, and what they can do."""

from __future__ import annotations

from typing import NamedTuple

from captionkit.errors import ModelError


class KnownModel(NamedTuple):
    """A model on the Hub. `run`: whether its graphs are run as published; otherwise it is imported first."""

    hub_id: str
    #: size of the fp32 graphs or weights, in MB
    megabytes: int
    license: str
    #: scores that its makers published; "" if none
    quality: str
    #: what it can do beside words: "style", "attention"
    can: tuple[str, ...]
    run: bool = True


_BSD, _COCO = "BSD-3-Clause", "(COCO Karpathy test)"
_STYLE, _MAPS = ("style",), ("attention",)
#: name -> model. Licenses, sizes and scores are those of the models' cards and papers.
KNOWN = {
    "vit-gpt2": KnownModel("Xenova/vit-gpt2-image-captioning", 982, "Apache-2.0", "", ()),
    "florence-2-base": KnownModel("onnx-community/Florence-2-base-ft", 1080, "MIT", f"CIDEr 140.0 {_COCO}", _STYLE),
    "florence-2-large": KnownModel("onnx-community/Florence-2-large-ft", 3300, "MIT", f"CIDEr 143.3 {_COCO}", _STYLE),
    "smolvlm-256m": KnownModel("HuggingFaceTB/SmolVLM-256M-Instruct", 1030, "Apache-2.0", "", _STYLE),
    "smolvlm-500m": KnownModel("HuggingFaceTB/SmolVLM-500M-Instruct", 2030, "Apache-2.0", "", _STYLE),
    "blip-base": KnownModel(
        "Salesforce/blip-image-captioning-base", 990, _BSD, f"CIDEr 133.3 {_COCO}", _MAPS, run=False
    ),
    "blip-large": KnownModel(
        "Salesforce/blip-image-captioning-large", 1880, _BSD, f"CIDEr 136.7 {_COCO}", _MAPS, run=False
    ),
    "git-base": KnownModel("microsoft/git-base-coco", 707, "MIT", f"CIDEr 131.4 {_COCO}", _MAPS, run=False),
    "git-large": KnownModel("microsoft/git-large-coco", 1580, "MIT", f"CIDEr 138.5 {_COCO}", _MAPS, run=False),
}


def hub_id_of(name: str) -> str:
    """Return the Hub id of a model that is known by name; "" for other names. Raises ModelError if it is not run."""
    known = KNOWN.get(name)
    if known and not known.run:
        raise ModelError(
            f"{name}: is imported first; run `captionkit import {known.hub_id} --output FOLDER`, then name the folder"
        )
    return known.hub_id if known else ""
