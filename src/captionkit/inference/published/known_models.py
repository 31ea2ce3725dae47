"""Models that are known by name: where they are, what they may be used for, and what they can do."""

from __future__ import annotations

from typing import NamedTuple


class KnownModel(NamedTuple):
    """A model on the Hub. `run`: whether its graphs are run as published; otherwise it is imported first."""

    hub_id: str
    #: size of the fp32 graphs or weights, in MB
    megabytes: int
    license: str
    #: scores that its makers published; "" if none
    quality: str
    run: bool


#: name -> model. Licences, sizes and scores are those of the models' cards and papers.
KNOWN = {
    "vit-gpt2": KnownModel("Xenova/vit-gpt2-image-captioning", 982, "Apache-2.0", "", run=True),
    "florence-2-base": KnownModel(
        "onnx-community/Florence-2-base-ft", 1080, "MIT", "CIDEr 140.0 (COCO Karpathy test)", run=True
    ),
    "florence-2-large": KnownModel(
        "onnx-community/Florence-2-large-ft", 3300, "MIT", "CIDEr 143.3 (COCO Karpathy test)", run=True
    ),
    "blip-base": KnownModel(
        "Salesforce/blip-image-captioning-base", 990, "BSD-3-Clause", "CIDEr 133.3 (COCO Karpathy test)", run=False
    ),
    "blip-large": KnownModel(
        "Salesforce/blip-image-captioning-large", 1880, "BSD-3-Clause", "CIDEr 136.7 (COCO Karpathy test)", run=False
    ),
    "git-base": KnownModel("microsoft/git-base-coco", 707, "MIT", "CIDEr 131.4 (COCO Karpathy test)", run=False),
    "git-large": KnownModel("microsoft/git-large-coco", 1580, "MIT", "CIDEr 138.5 (COCO Karpathy test)", run=False),
}


def hub_id_of(name: str) -> str:
    """Return the Hub id of a model that is known by name; "" for other names."""
    known = KNOWN.get(name)
    return known.hub_id if known else ""
