"""What a training step takes of memory and time: by recipe, and by ways to save either.

    python bench/memory.py DATA [--steps N] [--ways WAY,WAY] [--trainer.batch-size N and other flags of train]

Each row is a process of its own, with one thread. Memory is the growth of the process from before its first step to
its peak; the time of a step is processor time, the median after the first two.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import threading
import time
from pathlib import Path

WAYS: dict[str, dict[str, str]] = {
    "plain": {},
    "accumulate 4": {"trainer.gradient_accumulation_steps": "4"},
    "recompute": {"trainer.gradient_checkpointing": "true"},
    "bf16": {"trainer.precision": "bf16"},
    "compile": {"trainer.compile": "true"},
}


def measure(data: Path, fields: dict[str, str], steps: int) -> tuple[float, float]:
    """Bytes at the peak, seconds a step."""
    import psutil
    import torch

    from captionkit.training import run_setup
    from captionkit.training.config.recipe import load_recipe
    from captionkit.training.data.dataset import CaptionDataset
    from captionkit.training.data.loader import batches
    from captionkit.training.data.sampler import EpochSampler
    from captionkit.training.engine import compile
    from captionkit.training.engine.distributed import make_accelerator
    from captionkit.training.train_step import TrainStep

    torch.set_num_threads(1)
    recipe = load_recipe(None, fields)
    made = run_setup.prepare(recipe, data)
    accelerator = make_accelerator(recipe.trainer.precision, made.model)
    taught = CaptionDataset(made.train, made.tokenizer, recipe, made.preprocessing, augment=True)
    learner = TrainStep(made.model, taught, EpochSampler(len(taught), recipe), recipe, accelerator)
    gc.collect()
    process, ended, peak = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss
    if recipe.trainer.compile:
        compile.compile_parts(made.model)

    def watch() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    on_eval = threading.Thread(target=watch)
    on_eval.start()
    times, pictures = [], batches(taught, learner.plan, 0, recipe.data.num_workers)
    for step in range(steps):
        started = time.process_time()
        learner.step(step, pictures)
        times.append(time.process_time() - started)
    pictures.close()
    ended.set()
    on_eval.join()
    return peak[0] - before, statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--ways", default=",".join(WAYS), help="some of: %(default)s")
    options, rest = parser.parse_known_args()
    fields = {
        flag.removeprefix("--").replace("-", "_"): value for flag, value in zip(rest[::2], rest[1::2], strict=True)
    }
    context = multiprocessing.get_context("spawn")
    for way in options.ways.split(","):
        with context.Pool(1) as pool:
            measured, seconds = pool.apply(measure, (options.data, {**fields, **WAYS[way]}, options.steps))
        print(f"{way:14} {measured / 1e6:6.0f} MB, {seconds:6.2f} s a step", flush=True)


if __name__ == "__main__":
    main()
