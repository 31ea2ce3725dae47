"""Collate samples into batches: images stacked, captions packed without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captionkit.models.decoder import PackedCaptions
from captionkit.training.data.dataset import Sample
from captionkit.training.data.soft_targets import SoftLabels


class Batch(NamedTuple):
    """Images or their encoder features, with packed captions (see `PackedCaptions`)."""

    images: Tensor | None  # [B,3,H,W]
    features: Tensor | None  # [B,G,D]
    captions: PackedCaptions
    targets: Tensor  # [P]: the word after each of captions.tokens
    broken: list[str]  # images that could not be read, with the reason
    indices: tuple[int, ...] = ()  # index of each image in the split, [B]
    turns: tuple[int, ...] = ()  # how often each image was shown before, [B]
    uniforms: Tensor | None = None  # [P,3]: random numbers for each of captions.tokens (see `InputCorruption`), if used
    soft: SoftLabels | None = None  # soft targets of the teachers, if there are any

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to `device`."""
        return Batch(
            None
            if self.images is None
            else self.images.to(device, non_blocking=True, memory_format=torch.channels_last),
            None if self.features is None else self.features.to(device, non_blocking=True),
            self.captions.to(device),
            self.targets.to(device, non_blocking=True),
            self.broken,
            self.indices,
            self.turns,
            None if self.uniforms is None else self.uniforms.to(device, non_blocking=True),
            None if self.soft is None else self.soft.to(device),
        )

    def pinned(self) -> Batch:
        """Copy the batch to pinned memory, for asynchronous transfer to a GPU."""
        names = ("images", "features", "targets", "chances")
        parts = {name: getattr(self, name) for name in names}
        tokens, sizes, image_index = self.captions
        captions = PackedCaptions(tokens.pin_memory(), sizes, image_index.pin_memory())
        pinned = {name: part.pin_memory() for name, part in parts.items() if part is not None}
        soft = None if self.soft is None else SoftLabels(*(part.pin_memory() for part in self.soft))
        return self._replace(captions=captions, soft=soft, **pinned)


def collate(samples: Sequence[Sample], *, features: bool) -> Batch:
    """Stack images and pack captions, longest first.

    Unreadable images are skipped and listed in `broken`. If no image is readable, the batch has no captions, images or
    features.
    """
    good = [sample for sample in samples if sample.image is not None]
    captions = [(caption, row) for row, sample in enumerate(good) for caption in sample.captions]
    order = sorted(range(len(captions)), key=lambda place: -len(captions[place][0]))
    captions = [captions[place] for place in order]
    packed, targets = pack(captions)
    images = [sample.image for sample in samples if sample.image is not None]
    stacked = torch.from_numpy(np.stack(images)).float() if good else None
    uniforms = _packed([sample.uniforms for sample in good], order)
    return Batch(
        None if features else stacked,
        stacked if features else None,
        packed,
        targets,
        [sample.broken for sample in samples if sample.image is None],
        uniforms=None if uniforms is None else torch.from_numpy(uniforms),
        soft=_soft([sample.soft for sample in good], order),
    )


def pack(captions: Sequence[tuple[list[int], int]]) -> tuple[PackedCaptions, Tensor]:
    """Pack captions and return them with their targets, the next words [P].

    `captions` are (token ids, row of the image), the longest first.
    """
    steps = max((len(caption) for caption, _ in captions), default=1) - 1
    columns = [[caption[t : t + 2] for caption, _ in captions if len(caption) > t + 1] for t in range(steps)]
    flat = torch.tensor([pair for column in columns for pair in column], dtype=torch.long).reshape(-1, 2)  # [P,2]
    image_index = torch.tensor([row for _, row in captions], dtype=torch.long)
    return PackedCaptions(flat[:, 0].contiguous(), [len(c) for c in columns], image_index), flat[:, 1].contiguous()


def packed_rows(lengths: Sequence[int], order: Sequence[int]) -> np.ndarray:
    """Return, for each packed word [P], its index among the concatenated words of all captions.

    `lengths` are the captions' numbers of words; `order` is the order in which captions are packed.
    """
    starts = np.cumsum([0, *lengths])
    steps = range(max(lengths, default=0))
    return np.array([starts[place] + t for t in steps for place in order if lengths[place] > t], dtype=np.int64)


def _packed(tables: Sequence[Sequence[np.ndarray]], order: Sequence[int]) -> np.ndarray | None:
    """Pack per-word values, given per image and caption as [L,...], into [P,...]; None if there are none."""
    flat = [table for some in tables for table in some]
    if not flat:
        return None
    return np.concatenate(flat)[packed_rows([len(one) for one in flat], order)]


def _soft(tables: Sequence[Sequence[np.ndarray]], order: Sequence[int]) -> SoftLabels | None:
    table = _packed(tables, order)
    if table is None:
        return None
    return SoftLabels(
        torch.from_numpy(table["id"].astype(np.int64)), torch.from_numpy(table["share"].astype(np.float32))
    )
