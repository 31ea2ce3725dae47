"""Imported captioners against transformers' `generate` on the same weights: milliseconds an image, and memory.

    python bench/foreign.py --keep DIR [--models NAME...] [--precisions fp32 int8] [--rounds N] [--save FILE]

Networks of real size have random weights, since speed does not depend on them. They are saved as transformers saves
them, imported by captionkit, and both caption images of noise with a beam of 3 and 16 tokens, one at a time and in a
batch of 8. Each contender is a process of its own with two threads; they take turns, round by round, and the median
of the rounds counts, for ratios that of the rounds' own. Memory is the peak of the process, the opening of the model
included.

Importing in 8 bits takes many minutes. DIR keeps the models and, of each that was measured, the figures; a second run
with the same settings goes on where the first was stopped. `--tiny` measures networks of toy size, to try the bench.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from captionkit.errors import CaptionkitError
from captionkit.utils.atomic_write import write_text
from foreign_models import SIDES, save, side_of
from speed_report import spread
from speed_results import Figure
from tables import Report, add_save, figure, table, tell
from workers import Worker, WorkerError

NAME = "foreign"
THREADS, BEAM, TOKENS, BATCH = 2, 3, 16, 8
CASES = {"one image": 1, f"batch of {BATCH}": BATCH}
PRECISIONS = ("fp32", "int8")
THEIRS = "transformers"
_PATIENCE = 1200  # seconds for an answer
_PROMPT = "What does the image describe?"

#: of a contender: milliseconds an image of each round by case, and the peak of its memory in MB
Figures = dict[str, Any]


def main() -> int:
    """Measure, print, and write where asked to."""
    options = _parser().parse_args()
    try:
        options.keep.mkdir(parents=True, exist_ok=True)
        tell(report({name: measured(name, options) for name in options.models}, options), options.save)
    except (CaptionkitError, WorkerError) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=SIDES, default=list(SIDES), help="default: all")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="default: both")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each case that count (default: 5)")
    parser.add_argument("--tiny", action="store_true", help="networks of toy size, to try the bench")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", required=True, help="for models and figures; goes on with what is there"
    )
    add_save(parser, NAME)
    return parser


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The "figures" of a model's contenders and the "load" then: those kept, if made with the same settings."""
    path = options.keep / f"{name}.figures.json"
    settings = {"rounds": options.rounds, "precisions": options.precisions, "tiny": options.tiny, **_versions()}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] == settings:
            return dict(kept)
    made = {"settings": settings, "figures": measure(name, options), "load": os.getloadavg()[2]}
    write_text(path, json.dumps(made, indent=1) + "\n")
    return made


def measure(name: str, options: argparse.Namespace) -> dict[str, Figures]:
    """Make a model and measure every contender, round by round."""
    published, side = _published(name, options), side_of(name, tiny=options.tiny)
    imported = {
        precision: _imported(published, options.keep / f"{published.name}-{precision}", precision)
        for precision in options.precisions
    }
    made: dict[str, Worker] = {}
    try:
        made[THEIRS] = Worker("foreign:Published", {"path": str(published), "side": side}, patience=_PATIENCE)
        for precision, folder in imported.items():
            given = {"path": str(folder), "precision": precision, "side": side}
            made[f"captionkit {precision}"] = Worker("foreign:Imported", given, patience=_PATIENCE)
        return _rounds(made, options.rounds)
    finally:
        for worker in made.values():
            worker.close()


def _rounds(made: dict[str, Worker], rounds: int) -> dict[str, Figures]:
    figures: dict[str, Figures] = {contender: {case: [] for case in CASES} for contender in made}
    for case in CASES:
        for number in range(rounds + 1):
            for contender, worker in made.items():
                turn = worker.run(case)
                figures[contender]["peak MB"] = turn["peak MB"]
                if number:  # the first turn warms up
                    figures[contender][case].append(turn["ms"])
    return figures


def _published(name: str, options: argparse.Namespace) -> Path:
    path = Path(options.keep / (f"{name}-tiny" if options.tiny else name))
    if not path.exists():
        save(name, path, tiny=options.tiny)
    return path


def _imported(published: Path, folder: Path, precision: str) -> Path:
    """Return the folder of the imported model, which is written whole or not at all."""
    if not folder.exists():
        from captionkit.export.importers.convert import import_model

        print(import_model(published, folder, precisions=[precision]), flush=True)
    return folder


def report(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> Report:
    """The table, with what was asked before it."""
    asked = ["--keep DIR", f"--models {' '.join(options.models)}", f"--precisions {' '.join(options.precisions)}"]
    asked += [f"--rounds {options.rounds}", *(["--tiny"] if options.tiny else [])]
    head = ["model", "contender", *(f"{case}, ms an image" for case in CASES), "times transformers", "peak MB", "of"]
    rows = [
        [name, contender, *_row(figures, contenders[THEIRS])]
        for name, contenders in ((name, made["figures"]) for name, made in found.items())
        for contender, figures in contenders.items()
    ]
    load = max(made["load"] for made in found.values())
    versions = ", ".join(f"{package} {number}" for package, number in _versions().items())
    return [
        f"`python bench/foreign.py {' '.join(asked)}`",
        f"Beam {BEAM}, {TOKENS} tokens, threads: {THREADS}, 15-minute load average up to {load:.1f}; {versions}. "
        "Median (least–most) of the rounds; ratios by round.",
        table(head, rows),
    ]


def _row(ours: Figures, theirs: Figures) -> list[str]:
    ratios = [Figure.of(b / a for a, b in zip(ours[case], theirs[case], strict=True)) for case in CASES]
    return [
        *(spread(Figure.of(ours[case])) for case in CASES),
        " and ".join(f"{figure(ratio[0])} x" for ratio in ratios),
        f"{ours['peak MB']:,.0f}",
        figure(ours["peak MB"] / theirs["peak MB"]),
    ]


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("onnxruntime", "torch", "transformers")}


def _noise(case: str, side: int) -> np.ndarray:
    shape = (CASES[case], 3, side, side)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _turn(start: float, case: str) -> dict[str, float]:
    ms = (time.perf_counter() - start) * 1000 / CASES[case]
    return {"ms": ms, "peak MB": peak_megabytes()}


def peak_megabytes() -> float:
    """The most memory that this process has had.

    Linux's `ru_maxrss` begins with that of the process which started this one, so it is asked only elsewhere.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


class Published:
    """transformers' `generate`."""

    def __init__(self, path: str, side: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        self.config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        self.network = getattr(transformers, self.config["architectures"][0]).from_pretrained(path).eval()
        self.side = side
        self.prompt = self._prompt(path) if self.config["model_type"] == "florence2" else None

    def run(self, case: str) -> dict[str, float]:
        import torch

        pixels = torch.from_numpy(_noise(case, self.side))
        given = {} if self.prompt is None else {"input_ids": self.prompt.repeat(len(pixels), 1)}  # [1,L] -> [B,L]
        start = time.perf_counter()
        with torch.inference_mode():
            self.network.generate(
                pixel_values=pixels,
                **given,
                num_beams=BEAM,
                do_sample=False,
                min_new_tokens=TOKENS,
                max_new_tokens=TOKENS,
            )
        return _turn(start, case)

    def _prompt(self, path: str) -> Any:
        """Return Florence-2's prompt [1,L]: a token for each feature of the image, then the task."""
        import torch
        import transformers

        with torch.inference_mode():
            features = self.network.get_image_features(torch.zeros(1, 3, self.side, self.side)).pooler_output
        words = transformers.PreTrainedTokenizerFast.from_pretrained(path)(_PROMPT).input_ids
        return torch.tensor([[self.config["image_token_id"]] * features.shape[1] + words])


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


if __name__ == "__main__":
    sys.exit(main())
