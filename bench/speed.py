"""How fast captionkit captions, against others and against the machine's own limit: tables, JSON and a picture.

    python bench/speed.py [--model NAME=FOLDER ...] [--photos DIR] [--only NAME,...] [--rounds N] [--threads N]
                          [--save FILE] [--json FILE] [--picture FILE]

Contenders run in processes of their own and take turns, round by round, on the same pictures, so that a busy moment of
the machine hits all alike. docs/speed.md tells what each is and how to read the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import speed_cases as cases
from captionkit.errors import CaptionkitError
from captionkit.inference.model_folder import open_model
from captionkit.utils.atomic_write import write_text
from captionkit.utils.console import print_message
from photos import found_photos, made_photos
from speed_report import report
from speed_results import Results
from speed_settings import processors, settings
from tables import add_save, tell
from workers import Worker, WorkerError

_OTHERS = (cases.TORCH, cases.TEXTBOOK, cases.VIT_GPT2, cases.BLIP, cases.MACHINE, cases.COLD)
_SETTLE = 0.2  # seconds that a contender's threads get to fall asleep


class Contender(NamedTuple):
    """How to make a contender in its process, and its cases."""

    run_setup: str
    arguments: dict[str, Any]
    cases: tuple[str, ...]


def contenders(models: dict[str, str | None], photos: Sequence[Path], threads: int) -> dict[str, Contender]:
    """All there are, by name; the first model is also what torch and the cold start use."""
    own = (*(cases.case(beam, batch) for batch in cases.BATCHES for beam in cases.BEAMS), cases.FORCED)
    first = next(iter(models.values()))
    many = {"photos": [*photos], "threads": threads}
    few = {"photos": photos[: cases.SINGLES], "threads": threads}
    return {
        **{name: Contender("ours:Onnx", {"model": model, **many}, own) for name, model in models.items()},
        cases.TORCH: Contender("ours:Torch", {"model": first, **many}, own),
        cases.TEXTBOOK: Contender("peers:textbook", few, (cases.FORCED, cases.ONCE)),
        cases.VIT_GPT2: Contender("peers:vit_gpt2", few, (cases.FORCED,)),
        cases.BLIP: Contender("peers:blip", few, (cases.FORCED,)),
        cases.MACHINE: Contender("machine:Machine", {"threads": threads}, cases.ARITHMETIC),
        cases.COLD: Contender(
            "coldstart:ColdStart",
            {"model": first, "photo": photos[0]},
            (cases.COMMAND, cases.LIBRARY, cases.IMPORTS),
        ),
    }


def measure(entered: dict[str, Contender], results: Results, rounds: int) -> None:
    """Fill `results`; a contender that fails is named there, and the others go on."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, contender in entered.items():
            print_message(f"preparing {name}")
            # The machine also reads as much as the models, which come before it, read of weights.
            chosen = (*contender.cases, *results.reads()) if name == cases.MACHINE else contender.cases
            try:
                workers[name] = Worker(contender.run_setup, contender.arguments)
                stack.callback(workers[name].close)
                results.facts[name] = {case: workers[name].prepare(case) for case in chosen}
                results.rounds[name] = {case: [] for case in chosen}
            except WorkerError as error:
                _fail(name, error, workers, results)
        for number in range(rounds):
            print_message(f"round {number + 1} of {rounds}")
            for name, worker in list(workers.items()):
                time.sleep(_SETTLE)
                try:
                    for case, figures in results.rounds[name].items():
                        figures.append(worker.run(case))
                except WorkerError as error:
                    _fail(name, error, workers, results)


def _fail(name: str, error: WorkerError, workers: dict[str, Worker], results: Results) -> None:
    print_message(f"{name} is not measured: {error}")
    results.failed[name] = str(error)
    for table in (workers, results.facts, results.rounds):
        table.pop(name, None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 if all was measured that was asked for, 1 if not all, 2 for a wrong choice."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except CaptionkitError as error:
        print_message(f"speed.py: {error}")
        return 2


def _run(options: argparse.Namespace) -> int:
    models = _models(options.model)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for libraries that the contenders import
    with tempfile.TemporaryDirectory() as scratch:
        most = max(cases.BATCHES)
        photos = found_photos(options.photos, most) if options.photos else made_photos(Path(scratch), most)
        entered = _chosen(contenders(models, photos, options.threads), options.only)
        results = Results(settings(options), next(iter(models)), [*models, cases.TORCH])
        measure(entered, results, options.rounds)
    tell(report(results), options.save)
    if options.json:
        write_text(options.json, json.dumps(results.to_dict(), indent=1) + "\n")
    if options.picture:
        from speed_picture import draw

        draw(results, options.picture)
    return 1 if results.failed else 0


def _models(named: Sequence[str]) -> dict[str, str | None]:
    """Model folders by name, each looked at before anything is measured."""
    models: dict[str, str | None] = {}
    for one in named:
        name, _, folder = one.partition("=")
        if not (name and folder):
            raise CaptionkitError(f"--model {one}: give it as NAME=FOLDER")
        if name in models or name in _OTHERS:
            raise CaptionkitError(f"--model {one}: {name} is the name of another contender; choose one of your own")
        open_model(folder)
        models[name] = folder
    return models or {"bundled": None}


def _chosen(entered: dict[str, Contender], only: str | None) -> dict[str, Contender]:
    wanted = [*entered] if only is None else only.split(",")
    for name in wanted:
        if name not in entered:
            raise CaptionkitError(f"--only {name}: no such contender; there are {', '.join(entered)}")
    return {name: contender for name, contender in entered.items() if name in wanted}


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a model folder, or several; the first is what the others are compared with (default: the bundled model)",
    )
    parser.add_argument("--photos", type=Path, help="a folder of images (default: made-up ones)")
    parser.add_argument("--only", metavar="NAME,...", help=f"some of: the models' names, {', '.join(_OTHERS)}")
    parser.add_argument("--rounds", type=_whole, default=5, help="default: 5")
    parser.add_argument("--threads", type=_whole, default=processors(), help="of each contender (default: all)")
    parser.add_argument("--json", type=Path, help="write every figure of every round to this file")
    parser.add_argument("--picture", type=Path, help="draw the figures into this PNG")
    add_save(parser, "speed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
