"""Distillation (Hinton et al. 2015, arXiv 1503.02531): an ensemble of teachers provides soft targets.

The teachers run once over the training captions, before the first step. Their distributions for each word are
averaged, as in an ensemble, and the most probable words are stored on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor

from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import RecipeError, TrainingError
from captionkit.inference.model_folder import WEIGHTS, ModelFolder, open_model
from captionkit.models.captioning_model import CaptioningModel
from captionkit.models.decoder import PackedCaptions
from captionkit.models.serialization import load_model
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.collate import pack, packed_rows
from captionkit.training.data.feature_cache import ConcatFeatures, Shown
from captionkit.training.data.soft_targets import SoftTargets
from captionkit.utils import paths

#: number of most probable words stored per distribution, renormalized to sum to 1
_KEPT = 32
_CHUNK = 32
_ENTRY = np.dtype([("id", "<i4"), ("share", "<f2")])


class Teacher(NamedTuple):
    """A teacher model with its encoder's features of the training images."""

    folder: ModelFolder
    model: CaptioningModel
    features: ConcatFeatures


def open_teachers(recipe: Recipe, tokenizer: Tokenizer) -> list[tuple[ModelFolder, CaptioningModel]]:
    """Load the recipe's teachers.

    Raises RecipeError if the vocabulary of one differs from that of the run, ModelError if one cannot be loaded.
    """
    found = []
    for name in recipe.distillation.teachers:
        folder = open_model(name)
        if folder.tokenizer.to_json() != tokenizer.to_json():
            raise RecipeError(
                f"distillation.teachers: {name} has another vocabulary than this run; take models of the same data and "
                "tokenizer, or start from it by --init"
            )
        model = load_model(folder)
        model.encoder.train_from(None)
        found.append((folder, model))
    return found


def soft_targets(
    teachers: Sequence[Teacher],
    tokens: Sequence[Sequence[Sequence[int]]],
    recipe: Recipe,
    accelerator: Accelerator,
    shown: Shown,
) -> SoftTargets:
    """Return the teachers' soft targets for the captions `tokens` of each image, computed once and cached on disk.

    Raises TrainingError if the cache cannot be written, for example because the disk is full.
    """
    key = _key(teachers, tokens, recipe.trainer.precision)
    path = paths.cache_folder() / "targets" / f"{key}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with accelerator.main_process_first(), FileLock(path.with_suffix(".lock")):
            if not path.exists():
                _write(path, _computed(teachers, tokens, accelerator, shown))
            table = np.load(path, mmap_mode="r")
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror}); free some space or set CAPTIONKIT_CACHE to another disk"
        ) from None
    return SoftTargets(table, tokens, key)


def _write(path: Path, table: np.ndarray) -> None:
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            np.save(file, table)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@torch.inference_mode()
def _computed(
    teachers: Sequence[Teacher],
    tokens: Sequence[Sequence[Sequence[int]]],
    accelerator: Accelerator,
    shown: Shown,
) -> np.ndarray:
    chunks = range(0, len(tokens), _CHUNK)
    parts = []
    for teacher in teachers:
        teacher.model.to(accelerator.device).eval()
    for start in shown(chunks, len(chunks), "teachers"):
        indices = range(start, min(start + _CHUNK, len(tokens)))
        captions = [([*caption], row) for row, index in enumerate(indices) for caption in tokens[index]]
        order = sorted(range(len(captions)), key=lambda place: -len(captions[place][0]))
        packed, _ = pack([captions[place] for place in order])
        with accelerator.autocast():
            expected = torch.stack([_expected(teacher, indices, packed.to(accelerator.device)) for teacher in teachers])
        best = expected.mean(0).topk(min(_KEPT, expected.shape[-1]), dim=-1)  # [M,P,V] -> [P,V] -> [P,T]
        lengths = [len(caption) - 1 for caption, _ in captions]
        part = np.empty((sum(lengths), best.values.shape[1]), _ENTRY)
        rows = packed_rows(lengths, order)
        part["id"][rows] = best.indices.cpu().numpy()
        part["share"][rows] = (best.values / best.values.sum(-1, keepdim=True)).cpu().numpy()
        parts.append(part)
    return np.concatenate(parts)


def _expected(teacher: Teacher, indices: Sequence[int], packed: PackedCaptions) -> Tensor:
    """Return a teacher's distribution for each word [P,V]."""
    features = np.stack([teacher.features[index, 0] for index in indices])
    seen = torch.from_numpy(features).float().to(packed.tokens.device)  # [B,G,D]
    grid = teacher.model.encoder.grid(teacher.folder.preprocessing.height, teacher.folder.preprocessing.width)
    return teacher.model(None, seen, packed, grid).logits.float().softmax(-1)


def _key(teachers: Sequence[Teacher], tokens: Sequence[Sequence[Sequence[int]]], precision: str) -> str:
    facts = [precision, _KEPT, [teacher.folder.config["files"][WEIGHTS]["sha256"] for teacher in teachers]]
    facts.append([teacher.folder.preprocessing.to_dict() for teacher in teachers])
    return hashlib.sha256(json.dumps([facts, tokens], sort_keys=True).encode()).hexdigest()[:32]
