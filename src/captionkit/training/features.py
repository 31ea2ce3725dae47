"""What a frozen encoder makes of each picture, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

from captionkit import files
from captionkit.datasets import CaptionSet, Example
from captionkit.errors import ImageError, TrainingError
from captionkit.images import Preprocessing, load_image
from captionkit.models.encoder import Encoder

_CHUNK = 32
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def cache_folder() -> Path:
    """$CAPTIONKIT_CACHE, or captionkit's folder in the user's cache."""
    base = os.environ.get("CAPTIONKIT_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "captionkit"


def cached_features(
    encoder: Encoder,
    captions: CaptionSet,
    preprocessing: Preprocessing,
    *,
    flips: bool,
    precision: str,
    progress: Callable[[Iterable, int, str], Iterable],
) -> tuple[np.ndarray, dict[int, str]]:
    """Features [N,views,G,D] float16, mapped from disk, and why some pictures (by index) could not be read.

    Views are the picture and, with `flips`, its mirror image. The file's name is a hash of the encoder's weights, the
    preprocessing, the precision and the pictures, so it is never stale. Raises TrainingError when the disk is full.
    """
    rows, columns = encoder.grid(preprocessing.height, preprocessing.width)
    shape = (len(captions), 2 if flips else 1, rows * columns, encoder.dim)
    path = cache_folder() / "features" / f"{_key(encoder, captions, preprocessing, flips, precision)}.npy"
    broken_path = path.with_suffix(".broken.json")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            broken = _compute(encoder, captions, preprocessing, shape, partial, precision, progress)
            files.write_text(broken_path, json.dumps(broken))
            partial.replace(path)
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot be written ({error.strerror}); free {np.prod(shape) * 2 / 1e9:.1f} GB or set "
                "CAPTIONKIT_CACHE to another disk"
            ) from None
        finally:
            partial.unlink(missing_ok=True)
    broken = json.loads(broken_path.read_text(encoding="utf-8"))
    return np.load(path, mmap_mode="r"), {int(index): reason for index, reason in broken.items()}


@torch.inference_mode()
def _compute(
    encoder: Encoder,
    captions: CaptionSet,
    preprocessing: Preprocessing,
    shape: tuple[int, ...],
    path: Path,
    precision: str,
    progress: Callable[[Iterable, int, str], Iterable],
) -> dict[int, str]:
    device = next(encoder.parameters()).device
    size = int(np.prod(shape)) * 2
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is found out now, not by a signal in the middle
    features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    broken: dict[int, str] = {}
    chunks = range(0, len(captions), _CHUNK)
    with ThreadPoolExecutor(2) as pool:
        for start in progress(chunks, len(chunks), "features"):
            chunk = captions.examples[start : start + _CHUNK]
            for view in range(shape[1]):
                read = list(pool.map(lambda example, view=view: _read(example, preprocessing, view == 1), chunk))
                images = np.stack([image for image, _ in read])
                pixels = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
                with torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST):
                    grid = encoder(pixels)  # [B,3,H,W] -> [B,G,D]
                features[start : start + len(chunk), view] = grid.to(torch.float16).cpu().numpy()
            broken |= {start + place: reason for place, (_, reason) in enumerate(read) if reason}
    features.flush()
    return broken


def _read(example: Example, preprocessing: Preprocessing, flip: bool) -> tuple[np.ndarray, str]:
    try:
        return load_image(example.image, preprocessing, flip=flip), ""
    except ImageError as error:
        return np.zeros((3, preprocessing.height, preprocessing.width), np.float32), str(error)


def _key(encoder: nn.Module, captions: CaptionSet, preprocessing: Preprocessing, flips: bool, precision: str) -> str:
    digest = hashlib.sha256(
        repr((sorted(preprocessing.to_dict().items()), flips, precision, captions.fingerprint())).encode()
    )
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
