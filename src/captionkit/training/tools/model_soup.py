"""`captionkit average`: average the weights of several models ("model soups", Wortsman et al. 2022, arXiv 2203.05482).

Models fine-tuned separately from the same initial model lie in one basin of the loss, so the mean of their weights is a
working model too, often better than each of them, and no larger or slower. By default the soup is greedy (recipe 1 of
the paper): starting from the best model, each next best one is added if that improves the mean. Optionally all models
are averaged (the uniform soup): if the models are about equally good, the greedy soup may stop at the first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from captionkit.data.layouts import CaptionSet, captioned_split
from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.model_folder import WEIGHTS, ModelFolder, check_place, open_model
from captionkit.models.serialization import architecture, load_model, stores_half
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.run.best_model import export_best, save_model
from captionkit.training.validation import Validation, Validator, validate
from captionkit.utils import paths
from captionkit.utils.provenance import command_line

_log = logging.getLogger(__name__)
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Candidate:
    """A model considered for the soup."""

    folder: ModelFolder
    weights: Weights
    found: Validation
    selected: bool = False

    @property
    def cider(self) -> float:
        """CIDEr-D of its captions of the validation images."""
        return self.found.scores["cider"]

    def to_dict(self) -> dict[str, Any]:
        """Return its entry in the soup's config."""
        made, path = self.folder.config.get("provenance", {}), self.folder.path
        name = path.parent.name if path.name == "best" else path.name
        digest = self.folder.config["files"][WEIGHTS]["sha256"]
        command = made.get("command", "unknown")
        return {"name": name, "selected": self.selected, "val_cider": self.cider, "command": command, "sha256": digest}


@dataclass(frozen=True)
class Soup:
    """The averaged model that was saved."""

    folder: ModelFolder
    found: Validation
    candidates: Sequence[Candidate]
    #: message about the export of its ONNX graphs
    graphs: str

    def __str__(self) -> str:
        lines = [
            f"{'averaged' if one['selected'] else 'left out'}  CIDEr-D {one['val_cider']:.4f}  {one['name']}"
            for one in map(Candidate.to_dict, self.candidates)
        ]
        scores = self.found.scores
        mean = f"the mean  CIDEr-D {scores['cider']:.4f}, BLEU-4 {scores['bleu4']:.4f}, in {self.folder.path}"
        return "\n".join([*lines, mean, self.graphs])


def average_models(
    data: Path, models: Sequence[str], output: Path, *, split: str = "val", half: bool = False, every: bool = False
) -> Soup:
    """Average `models` greedily by CIDEr-D on `split` of the dataset at `data`; write a model folder to `output`.

    Raises CaptionkitError if the models differ in architecture, vocabulary or preprocessing. With `every`, all models
    are averaged, whether that improves the score or not. The mean is stored in 16 bits if `half` is set or all `models`
    are stored in 16 bits.
    """
    if len(models) < 2:
        raise CaptionkitError("one model has no mean; name two or more that were trained from one model")
    folders = [open_model(model) for model in models]
    if paths.real(output) in [paths.real(folder.path) for folder in folders]:
        raise CaptionkitError(f"{output}: is one of the models to average; give another --output")
    check_place(output, inputs=[data])
    _check_alike(folders)
    validator = _WeightsValidator(folders[0], data, split)
    offered = []
    for folder in folders:
        weights = load_model(folder).state_dict()
        offered.append(Candidate(folder, weights, validator(weights)))
        _log.info(f"CIDEr-D {offered[-1].cider:.4f}  {folder.path}")
    ranked = sorted(offered, key=lambda one: -one.cider)
    candidates, found = _uniform(ranked, validator) if every else _greedy(ranked, validator)
    validator.model.load_state_dict(mean_of([one.weights for one in candidates if one.selected]))
    half = half or all(stores_half(one.folder) for one in candidates)
    facts = _facts(validator.images, found, candidates)
    kept = save_model(
        output, validator.model, validator.tokenizer, validator.preprocessing, facts, found.calibration, half=half
    )
    return Soup(kept, found, candidates, export_best(output, validator.images, half=half))


def mean_of(weights: Sequence[Weights]) -> Weights:
    """Return the mean of each tensor; integer tensors (counters) are taken from the first model."""
    return {
        name: torch.stack([one[name] for one in weights]).mean(0) if first.is_floating_point() else first
        for name, first in weights[0].items()
    }


class _WeightsValidator:
    """Validates different weights in the architecture of one model folder."""

    def __init__(self, folder: ModelFolder, data: Path, split: str) -> None:
        self.model, self.tokenizer, self.preprocessing = load_model(folder), folder.tokenizer, folder.preprocessing
        self.images = captioned_split(data, split)
        self._dataset = CaptionDataset(self.images, self.tokenizer, Recipe(), self.preprocessing, augment=False)
        self._validator, self._accelerator = Validator(self.images), Accelerator()
        self.model.to(self._accelerator.device)

    def __call__(self, weights: Weights) -> Validation:
        self.model.load_state_dict(weights)
        return validate(self.model.eval(), self._dataset, self.tokenizer, self._validator, self._accelerator)


def _uniform(ranked: Sequence[Candidate], validator: _WeightsValidator) -> tuple[list[Candidate], Validation]:
    """Return the candidates, all marked as taken, and the validation of their mean."""
    return [replace(one, selected=True) for one in ranked], validator(mean_of([one.weights for one in ranked]))


def _greedy(ranked: Sequence[Candidate], validator: _WeightsValidator) -> tuple[list[Candidate], Validation]:
    """Return the candidates, best first, with those in the greedy soup marked, and the validation of their mean."""
    selected, best = [ranked[0]], ranked[0].found
    for one in ranked[1:]:
        found = validator(mean_of([*(other.weights for other in selected), one.weights]))
        better = found.scores["cider"] > best.scores["cider"]
        _log.info(f"CIDEr-D {found.scores['cider']:.4f} with {one.folder.path}" + ("" if better else ", left out"))
        if better:
            selected, best = [*selected, one], found
    chosen = {id(one) for one in selected}
    return [replace(one, selected=id(one) in chosen) for one in ranked], best


def _check_alike(folders: Sequence[ModelFolder]) -> None:
    first = folders[0]
    model = architecture(load_model(first), first.preprocessing)
    for other in folders[1:]:
        theirs = architecture(load_model(other), other.preprocessing)
        pairs = {
            "architecture": (_shape(model), _shape(theirs)),
            "words": (first.tokenizer.tokens, other.tokenizer.tokens),
            "preprocessing": (first.preprocessing, other.preprocessing),
        }
        for name, (one, another) in pairs.items():
            if one != another:
                raise ModelError(
                    f"{other.path}: its {name} differs from that of {first.path}; average models that were trained "
                    "from one model"
                )


def _shape(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return the architecture without the fields that only affect training."""
    decoder = {name: value for name, value in architecture["decoder"].items() if name != "dropout"}
    return {**architecture, "decoder": decoder, "feature_dropout": None, "concept_weight": None}


def _facts(images: CaptionSet, found: Validation, candidates: Sequence[Candidate]) -> dict[str, Any]:
    return {
        "command": command_line(),
        "data": {"name": images.name, "fingerprint": images.fingerprint()},
        "images": {"val": len(images)},
        "val_loss": found.loss,
        "val_cider": found.scores["cider"],
        "candidates": [one.to_dict() for one in candidates],
    }
