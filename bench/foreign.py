"""Imported captioners against transformers' `generate` on the same weights: milliseconds an image, and memory.

    python bench/foreign.py [--models NAME...] [--precisions fp32 int8] [--rounds N] [--json FILE] [--keep DIR]

Networks of real size have random weights, since speed does not depend on them. They are saved as transformers saves
them, imported by captionkit, and both caption images of noise with a beam of 3 and 16 tokens, one at a time and in a
batch of 8. Each contender is a process of its own with two threads; they take turns, round by round, and the median
counts. Memory is the peak of the process, the opening of the model included.

Importing in 8 bits takes many minutes; `--keep DIR` keeps the models, and takes those that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from workers import Worker

THREADS, BEAM, TOKENS, BATCH = 2, 3, 16, 8
CASES = {"one image": 1, f"batch of {BATCH}": BATCH}
SIDES = {"blip-base": 384, "vit-gpt2": 224}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "int8"), default=["fp32", "int8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as scratch:
        root = options.keep or Path(scratch)
        found = {name: measure(name, root, options.precisions, options.rounds) for name in options.models}
    result = {"load": os.getloadavg()[0], "threads": THREADS, "beam": BEAM, "tokens": TOKENS, "models": found}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n".join(rows(result)))


def measure(name: str, root: Path, precisions: Sequence[str], rounds: int) -> dict[str, Any]:
    """Make a model and measure every contender: milliseconds an image by case, and peak megabytes."""
    published, folder = root / name, root / f"{name}-imported"
    if not published.exists():
        save(name, published)
    if not folder.exists():
        from captionkit.export.importers.convert import import_model

        print(import_model(published, folder, precisions=precisions))
    made = {"transformers": Worker("foreign:Published", {"path": str(published), "side": SIDES[name]}, patience=1200)}
    for precision in precisions:
        given = {"path": str(folder), "precision": precision, "side": SIDES[name]}
        made[f"captionkit {precision}"] = Worker("foreign:Imported", given, patience=1200)
    figures: dict[str, Any] = {contender: {} for contender in made}
    for case in CASES:
        times: dict[str, list[float]] = {contender: [] for contender in made}
        for number in range(rounds + 1):
            for contender, worker in made.items():
                turn = worker.run(case)
                figures[contender]["peak MB"] = turn["peak MB"]
                if number:  # the first turn warms up
                    times[contender].append(turn["ms"])
        for contender, all_ms in times.items():
            figures[contender][case] = statistics.median(all_ms)
    for worker in made.values():
        worker.close()
    return figures


def rows(result: dict[str, Any]) -> list[str]:
    """The table: a line for each model, contender and case."""
    lines = [
        f"beam {result['beam']}, {result['tokens']} tokens, {result['threads']} threads, load {result['load']:.1f}"
    ]
    for name, contenders in result["models"].items():
        first = contenders["transformers"]
        for contender, figures in contenders.items():
            cases = ", ".join(f"{case} {figures[case]:.0f} ms ({first[case] / figures[case]:.2f}x)" for case in CASES)
            share = figures["peak MB"] / first["peak MB"]
            lines.append(f"{name}: {contender}: {cases}, peak {figures['peak MB']:.0f} MB ({share:.2f} of)")
    return lines


def _noise(case: str, side: int) -> np.ndarray:
    shape = (CASES[case], 3, side, side)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _turn(start: float, case: str) -> dict[str, float]:
    ms = (time.perf_counter() - start) * 1000 / CASES[case]
    return {"ms": ms, "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


class Published:
    """transformers' `generate`."""

    def __init__(self, path: str, side: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        kind = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))["architectures"][0]
        self.network = getattr(transformers, kind).from_pretrained(path).eval()
        self.side = side

    def run(self, case: str) -> dict[str, float]:
        import torch

        pixels = torch.from_numpy(_noise(case, self.side))
        start = time.perf_counter()
        with torch.inference_mode():
            self.network.generate(
                pixel_values=pixels,
                num_beams=BEAM,
                do_sample=False,
                min_new_tokens=TOKENS,
                max_new_tokens=TOKENS,
            )
        return _turn(start, case)


class Imported:
    """The imported folder."""

    def __init__(self, path: str, precision: str, side: int) -> None:
        import captionkit

        self.captioner = captionkit.load(path, precision=precision, threads=THREADS)
        self.side = side

    def run(self, case: str) -> dict[str, float]:
        from dataclasses import replace

        from captionkit.inference.search import Begun, search

        pixels, stepper = _noise(case, self.side), self.captioner.stepper
        lengths = {"min_length": TOKENS, "max_length": TOKENS}
        decoding = replace(self.captioner.decoding, num_beams=BEAM, **lengths)
        start = time.perf_counter()
        search(stepper, Begun(stepper.begin(pixels), pixels), decoding, self.captioner.tokenizer.special)
        return _turn(start, case)


def save(name: str, path: Path) -> None:
    """Save a network of real size with random weights, a tokenizer of one word, and an image processor."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    _network(name).save_pretrained(path)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "photo": 1}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(path)
    side = SIDES[name]
    stored = {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}, "resample": 3}
    stored |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "do_normalize": True}
    (path / "preprocessor_config.json").write_text(json.dumps(stored), encoding="utf-8")


def _network(name: str) -> Any:
    import transformers

    if name == "blip-base":
        text = {"encoder_hidden_size": 768}
        return transformers.BlipForConditionalGeneration(
            transformers.BlipConfig(vision_config={"image_size": SIDES[name]}, text_config=text)
        )
    decoder = transformers.GPT2Config(is_decoder=True, add_cross_attention=True)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(transformers.ViTConfig(), decoder)
    config.decoder_start_token_id = config.eos_token_id = config.pad_token_id = decoder.eos_token_id
    network = transformers.VisionEncoderDecoderModel(config)
    network.generation_config.update(decoder_start_token_id=50256, eos_token_id=50256, pad_token_id=50256)
    return network


if __name__ == "__main__":
    main()
