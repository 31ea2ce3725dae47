"""Milliseconds from a photo on disk to a caption, by stage, and against the machine's own limit.

    python bench/captioning.py [--model MODEL] [--photo PHOTO] [--rounds N]

Stages and reference rates are measured in turn, round by round, so that a busy moment of the machine hits all alike.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import captionkit

_SIDE = 1024  # of the matrices whose product tells the machine's rate


def photo_like(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A picture of photo-like statistics: coarse structure with fine noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(size, 3)
    noise = generator.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def photo_of(size: tuple[int, int], folder: Path) -> Path:
    """The same as a JPEG."""
    path = folder / "photo.jpg"
    photo_like(size).save(path, quality=90)
    return path


def matrix_rate() -> float:
    """Measured float32 rate in GFLOP/s."""
    a = np.random.default_rng(0).standard_normal((_SIDE, _SIDE)).astype(np.float32)
    start = time.perf_counter()
    a @ a
    return 2 * _SIDE**3 / (time.perf_counter() - start) / 1e9


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--photo", type=Path, help="default: a made-up 640 x 480 JPEG")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        photo = options.photo or photo_of((640, 480), Path(scratch))
        load = milliseconds(lambda: captionkit.load(options.model))
        model = captionkit.load(options.model)
        caption = model.caption(photo).text
        times: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for beam in (1, 3, 5):
                (outcome,) = model.stream([photo], beam=beam)
                for stage, value in outcome.ms.items():
                    times.setdefault(f"beam {beam} {stage}", []).append(value)
                times.setdefault(f"beam {beam} in all", []).append(sum(outcome.ms.values()))
            many = milliseconds(lambda: model.caption([photo] * 32, beam=3)) / 32
            times.setdefault("beam 3, 32 pictures together, each", []).append(many)
            times.setdefault("machine: GFLOP/s of a float32 matrix product", []).append(matrix_rate())

    print(f"{platform.processor() or platform.machine()}, {model.folder.path.name}, {photo.name}: {caption}")
    print(f"model loaded in {load:.0f} ms; {options.rounds} rounds; median (and least) milliseconds")
    for name, values in times.items():
        print(f"{name:48} {statistics.median(values):8.2f} {min(values):8.2f}")


if __name__ == "__main__":
    main()
