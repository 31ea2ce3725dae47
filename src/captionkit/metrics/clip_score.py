"""CLIPScore and RefCLIPScore (Hessel et al. 2021, arXiv 2104.08718): the similarity of caption and image under CLIP.

With image, candidate and reference embeddings v, c and r (section 3):

    CLIPScore    = 2.5 * max(cos(c, v), 0)
    RefCLIPScore = harmonic mean of CLIPScore and max(max over r of cos(c, r), 0)

The details follow the authors' code (github.com/jmhessel/clipscore): the prompt is prepended to candidates and
references, captions are truncated to CLIP's maximum length, and the weight of 2.5 is applied inside the harmonic mean.
The authors' code differs in that it ignores EXIF orientation, does not clip cos(c, r) at 0, computes in 16 bits on a
GPU (32 here), and cleans HTML entities and other encoding errors in captions.

What embeds is a subclass's: `captionkit.ClipScore` with torch, `captionkit.OnnxClipScore` with ONNX Runtime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import chain, islice

import numpy as np

from captionkit.data.images import Box, Preprocessing, Source, describe, open_image, preprocess
from captionkit.errors import CaptionkitError
from captionkit.metrics.metric import Floats, MetricResult, mean_result

PROMPT = "A photo depicts "
WEIGHT = 2.5


class ClipScoreMetric(ABC):
    """CLIPScore and RefCLIPScore, whatever embeds images and texts; `batch` of them at a time."""

    names: tuple[str, ...] = ("CLIPScore", "RefCLIPScore")
    needs_images = True

    def __init__(self, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        self._batch = batch
        self.reset()

    @abstractmethod
    def _embed_images(self, images: Sequence[Source]) -> Floats:
        """Return unit-length embeddings [B,D] of at most `batch` images."""

    @abstractmethod
    def _embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return unit-length embeddings [T,D] of any number of texts, each with the prompt before it."""

    def reset(self) -> None:
        """Discard all accumulated scores."""
        self._scores: list[Floats] = []

    def update(self, candidates: Sequence[str], references: Sequence[Sequence[str]], images: Sequence[Source]) -> None:
        """Add raw captions: per image one candidate, at least one reference, and the image itself.

        Raises CaptionkitError for an image without references and ImageError for one that cannot be read; nothing of
        the call is kept then.
        """
        rows = list(zip(candidates, references, images, strict=True))
        for number, (_, those, image) in enumerate(rows, sum(map(len, self._scores))):
            if not those:
                reason = f"image {number} ({describe(image)}) has no references"
                raise CaptionkitError(f"RefCLIPScore: {reason}; give it one, or leave the image out")
        self._scores += [self._score(rows[at : at + self._batch]) for at in range(0, len(rows), self._batch)]

    def compute(self) -> MetricResult:
        """Return the scores of all images so far; corpus scores are their means."""
        return mean_result(self.names, np.concatenate([np.empty((0, 2)), *self._scores]))

    def embed_images(self, images: Iterable[Source]) -> Floats:
        """Return the embeddings [N,D] of N images, for `similarity`. Raises ImageError for one that cannot be read."""
        waiting = iter(images)
        parts = iter(lambda: list(islice(waiting, self._batch)), [])
        return np.concatenate([self._embed_images(some) for some in parts])

    def similarity(self, captions: Sequence[str], images: Floats) -> Floats:
        """Return the CLIPScore [N] of a caption for each of N images, given as embeddings [N,D]."""
        # The sum of products is the cosine, as all embeddings have unit length: [N,D] * [N,D] -> [N]
        return WEIGHT * (self._embed_texts(captions) * images).sum(1).clip(min=0)

    def _score(self, rows: Sequence[tuple[str, Sequence[str], Source]]) -> Floats:
        """Return the scores [B,2] of B images."""
        embedded_images = self._embed_images([image for _, _, image in rows])  # [B,D]
        texts = dict.fromkeys(chain.from_iterable((candidate, *those) for candidate, those, _ in rows))
        embedded = dict(zip(texts, self._embed_texts(list(texts)), strict=True))
        clip, nearest = np.empty(len(rows)), np.empty(len(rows))
        for n, (candidate, those, _) in enumerate(rows):
            clip[n] = WEIGHT * max(embedded[candidate] @ embedded_images[n], 0)
            nearest[n] = max(*(embedded[candidate] @ embedded[reference] for reference in those), 0)
        both = clip + nearest
        # The harmonic mean is undefined if both are 0; use its limit, 0.
        harmonic = np.divide(2 * clip * nearest, both, out=np.zeros_like(both), where=both > 0)
        return np.stack([clip, harmonic], axis=1)


def prompted(texts: Sequence[str]) -> list[str]:
    """Return texts as CLIP reads them."""
    return [PROMPT + text for text in texts]


def clip_pixels(image: Source, preprocessing: Preprocessing) -> np.ndarray:
    """Return the image [3,side,side] as in CLIP's training: shorter side resized to `side`, then a center crop."""
    opened = open_image(image)  # at full size: decoding a JPEG at half size gives slightly different pixels
    return preprocess(opened, preprocessing, box=_middle(*opened.size, preprocessing.width))


def _middle(width: int, height: int, side: int) -> Box:
    """Return the box, in fractions, of a resize of the shorter side to `side` followed by a center crop.

    Rounding follows torchvision's Resize and CenterCrop, which the authors' code uses, so that the crop is identical to
    the pixel.
    """
    across, down = (max(side, int(side * length / min(width, height))) for length in (width, height))
    left, top = round((across - side) / 2), round((down - side) / 2)
    return left / across, top / down, (left + side) / across, (top + side) / down
