"""Images a second that threads and processes prepare for training, and how many the interpreter's lock would allow.

    python bench/loading.py [--photos FOLDER] [--seconds S]

Each image is opened, decoded, resized to 224 x 224 and normalised, as in training. The last rows tell what many cores
would make of it on a machine that has few: there the decoder and the resizing, which let go of the lock, are slept.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from captionkit.data.images import SUFFIXES, Preprocessing, load_image, open_image

PORTION = 4


def jpegs(photos: list[Image.Image], size: tuple[int, int], count: int = 64) -> list[bytes]:
    """Photographs of that width and height, as JPEG files of quality 90."""
    found = []
    for photo in islice(cycle(photos), count):
        buffer = io.BytesIO()
        photo.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def prepare(portion: list[bytes], side: int = 224, asleep: float = 0.0) -> None:
    """What a thread does at a time."""
    for content in portion:
        time.sleep(asleep)
        load_image(content, Preprocessing(height=side, width=side))


def rate(pool: Executor, work: Callable[[list[bytes]], None], files: list[bytes], seconds: float) -> float:
    """Images a second."""
    portions = [files[start : start + PORTION] for start in range(0, len(files), PORTION)]
    list(pool.map(work, portions))
    done, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        done += sum(len(portion) for portion, _ in zip(portions, pool.map(work, portions), strict=True))
    return done / (time.perf_counter() - started)


class Slept:
    """`prepare` of tiny images, with the time that decoding and resizing take slept through."""

    def __init__(self, asleep: float) -> None:
        self.asleep = asleep

    def __call__(self, portion: list[bytes]) -> None:
        prepare(portion, side=24, asleep=self.asleep)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photographs (default: the samples of scikit-image)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row (default: 3)")
    options = parser.parse_args()
    if options.photos:
        paths = [path for path in sorted(options.photos.iterdir()) if path.suffix.lower() in SUFFIXES][:64]
        photos = [open_image(path) for path in paths]
    else:
        from captionkit.viz.samples import sample_photos

        photos = [photo for _, photo in sample_photos()]
    for size in ((640, 480), (224, 224)):
        files = jpegs(photos, size)
        started = time.thread_time()
        prepare(files)
        cost = (time.thread_time() - started) / len(files)
        print(f"{size[0]} x {size[1]}, {np.mean([len(f) for f in files]) / 1e3:.0f} kB: {1e3 * cost:.2f} ms of a core")
        for kind in (ThreadPoolExecutor, ProcessPoolExecutor):
            for count in (1, 2):
                with kind(count) as pool:
                    shown = "threads" if kind is ThreadPoolExecutor else "processes"
                    print(f"  {count:2} {shown}: {rate(pool, prepare, files, options.seconds):6.0f} images/s")
        for count in (4, 16):
            with ThreadPoolExecutor(count) as pool:
                found = rate(pool, Slept(cost), jpegs(photos, (24, 24)), options.seconds)
                print(f"  {count:2} threads on as many cores, by sleeping: {found:6.0f} images/s")


if __name__ == "__main__":
    main()
