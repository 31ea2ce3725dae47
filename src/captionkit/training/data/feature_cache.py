"""Feature cache: outputs of the frozen encoder stages for each image, computed once and stored on disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from captionkit import __version__
from captionkit.data.images import Preprocessing, load_image
from captionkit.data.layouts import CaptionSet, Example
from captionkit.errors import ImageError, TrainingError
from captionkit.models.encoder import Encoder
from captionkit.utils import atomic_write, paths
from captionkit.utils.archive import ArchiveMember
from captionkit.utils.out_of_memory import is_out_of_memory

_CHUNK = 32
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

#: passes items through while showing progress: (items, total, label)
Shown = Callable[[Iterable, int, str], Iterable]


class ConcatFeatures:
    """The concatenated features of several datasets, [N,views,G,D], each memory-mapped from its own file."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])

    def __getitem__(self, place: tuple[int, int]) -> np.ndarray:
        """Return the features [G,D] or feature maps [H,W,C] of an image, given (index, view)."""
        index, view = place
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[part][index - self._starts[part], view]


def cached_features(
    encoder: Encoder,
    captions: CaptionSet,
    preprocessing: Preprocessing,
    *,
    flips: bool,
    precision: str,
    shown: Shown,
) -> tuple[np.ndarray, dict[int, str]]:
    """Return memory-mapped features [N,views,G,D] float16, and why some images (by index) could not be read.

    If later stages of the encoder are trained, these are feature maps [N,views,H,W,C], see `Encoder.encode_frozen`. The
    views are the image and, with `flips`, the flipped image. The file name is a hash of everything that determines the
    content (see `_key`), so the cache is never stale; concurrent runs that need the same file wait for the one that
    computes it. Raises TrainingError if the disk is full, or if the features overflow float16.
    """
    shape = (len(captions), 2 if flips else 1, *_shape(encoder, preprocessing))
    path = paths.cache_folder() / "features" / f"{_key(encoder, captions, preprocessing, flips, precision)}.npy"
    partial, notes = path.with_suffix(".partial"), path.with_suffix(".broken.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not _whole(path, notes, shape):
                _check_space(path.parent, shape)
                try:
                    broken = _compute(encoder, captions, preprocessing, shape, partial, precision, shown)
                    atomic_write.write_text(notes, json.dumps(broken))
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)  # may be large, and the disk may be full
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror}); free {_bytes(shape) / 1e9:.1f} GB or set "
            "CAPTIONKIT_CACHE to another disk"
        ) from None
    broken = json.loads(notes.read_text(encoding="utf-8"))
    return np.load(path, mmap_mode="r"), {int(index): reason for index, reason in broken.items()}


@torch.inference_mode()
def _shape(encoder: Encoder, preprocessing: Preprocessing) -> tuple[int, ...]:
    """Return the shape of one image's features: [G,D], or [H,W,C] if later stages are trained."""
    blank = torch.zeros(1, 3, preprocessing.height, preprocessing.width, device=next(encoder.parameters()).device)
    return tuple(encoder.encode_frozen(blank).shape[1:])


def _whole(path: Path, notes: Path, shape: tuple[int, ...]) -> bool:
    """Return whether the cached files exist and look intact, judged by the array's header and file size."""
    try:
        json.loads(notes.read_text(encoding="utf-8"))
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):
        return False


def _bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(np.float16).itemsize


def _check_space(folder: Path, shape: tuple[int, ...]) -> None:
    # Fail now rather than after an hour of computation.
    if shutil.disk_usage(folder).free < _bytes(shape):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@torch.inference_mode()
def _compute(
    encoder: Encoder,
    captions: CaptionSet,
    preprocessing: Preprocessing,
    shape: tuple[int, ...],
    path: Path,
    precision: str,
    shown: Shown,
) -> dict[int, str]:
    broken: dict[int, str] = {}
    chunks = range(0, len(captions), _CHUNK)
    with path.open("wb") as file, ThreadPoolExecutor(2) as pool:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for start in shown(chunks, len(chunks), "features"):
            examples = captions.examples[start : start + _CHUNK]
            views = []
            for flip in range(shape[1]):
                read = list(pool.map(lambda example, flip=flip: _read(example, preprocessing, bool(flip)), examples))
                views.append(_encode_what_fits(encoder, np.stack([image for image, _ in read]), precision))
            broken |= {start + place: reason for place, (_, reason) in enumerate(read) if reason}
            file.write(np.stack(views, axis=1).tobytes())  # [B,views,...]
        file.flush()
        os.fsync(file.fileno())
    return broken


def _encode_what_fits(encoder: Encoder, images: np.ndarray, precision: str) -> np.ndarray:
    """Like `_encode`, but split the batch in halves if it does not fit into memory."""
    try:
        return _encode(encoder, images, precision)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(images) == 1:
            remedy = "lower image.height and image.width, or take a smaller encoder.name"
            raise TrainingError(f"out of memory while one image went through the encoder; {remedy}") from None
    half = len(images) // 2
    return np.concatenate([_encode_what_fits(encoder, part, precision) for part in (images[:half], images[half:])])


def _encode(encoder: Encoder, images: np.ndarray, precision: str) -> np.ndarray:
    """Encode `images` [B,3,H,W] -> features [B,G,D] or [B,H,W,C], float16."""
    device = next(encoder.parameters()).device
    pixels = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
    with torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST):
        features = encoder.encode_frozen(pixels).to(torch.float16).cpu().numpy()
    if not np.isfinite(features).all():
        raise TrainingError(
            "the encoder's features do not fit 16 bits, in which they are kept; train the encoder too, or take another"
        )
    return features


def _read(example: Example, preprocessing: Preprocessing, flip: bool) -> tuple[np.ndarray, str]:
    try:
        return load_image(example.image, preprocessing, flip=flip), ""
    except ImageError as error:
        return np.zeros((3, preprocessing.height, preprocessing.width), np.float32), str(error)


def _key(encoder: Encoder, captions: CaptionSet, preprocessing: Preprocessing, flips: bool, precision: str) -> str:
    """Hash captionkit's version, the encoder's frozen weights, the preprocessing, the precision and the images.

    Images are identified by id, name, size and modification time, so that a repaired file is read again.
    """
    facts = (__version__, sorted(preprocessing.to_dict().items()), flips, precision)
    digest = hashlib.sha256(repr(facts).encode())
    for example in captions:
        digest.update(repr((example.id, example.name, _version(example.image))).encode())
    for name, tensor in encoder.frozen_state().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _version(image: Path | ArchiveMember | bytes) -> object:
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    path, place = (image.archive, (image.offset, image.size)) if isinstance(image, ArchiveMember) else (image, ())
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, *place
