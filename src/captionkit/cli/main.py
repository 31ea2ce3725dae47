"""The command line: one function per command, no logic of its own; heavy imports wait until they are needed."""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

from captionkit import __version__
from captionkit.cli.parser import Parser
from captionkit.errors import CaptionkitError
from captionkit.utils.console import log_to_console, print_message, print_result, silence
from captionkit.utils.paths import unreadable
from captionkit.utils.signals import Stopped, stoppable

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 not (all) done, 2 wrong usage."""
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name or a word that the terminal cannot show must not end the work
            stream.reconfigure(errors="backslashreplace")
    parsed = argparse.Namespace(extra="")
    try:
        parsed, unknown = _parser(arguments if arguments is not None else sys.argv[1:]).parse_known_args(arguments)
        if unknown:
            parsed.parser.refuse(unknown)
        with _running(parsed.command, verbose=parsed.verbose):
            return parsed.command(parsed)
    except CaptionkitError as error:
        print_message(f"captionkit: {error}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("captionkit"):
            raise
        print_message(f"captionkit: {error.name} is not installed; run `{_INSTALL}[{parsed.extra}]'`")
    except BrokenPipeError:  # whoever read our output has gone; there is nobody to tell
        silence(sys.stdout)
    except OSError as error:  # what failed in the midst of work, such as a disk that went
        print_message(f"captionkit: {unreadable(error.filename or 'a file', error)}")
    except Stopped as stopped:
        print_message(f"captionkit: stopped by {stopped}")
        return stopped.status
    except KeyboardInterrupt:
        print_message("captionkit: interrupted")
        return 130
    return 1


@contextmanager
def _running(command: Command, *, verbose: bool) -> Iterator[None]:
    """Show what the library logs, and end on signals; a server ends in its own way."""
    with log_to_console(verbose=verbose), nullcontext() if command in (serve, mcp) else stoppable():
        yield


def _fill_closed_streams() -> None:
    """Put something in the place of standard streams that the caller closed.

    Otherwise a file that is opened later would take the place, and what is printed would land in it.
    """
    for name, use in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, use)  # the lowest that is free: the closed one
            if name != "stdin":  # to write to what is open for reading fails, as it should where an answer is lost
                setattr(sys, name, open(descriptor, "w", closefd=False))  # noqa: SIM115


_INSTALL = "pip install 'captionkit"

_ABOUT = "Describes images in words, and trains, evaluates and serves the models that do."
_MORE = "`captionkit COMMAND --help` says more of a command."

_MODEL = "model folder, Hub id, or a name that `captionkit models` lists"
#: the commands as `captionkit --help` orders them
_GROUPS = {
    "caption": ("caption", "bulk", "watch", "alttext", "serve", "mcp", "demo"),
    "data": ("inspect", "metadata", "name"),
    "train": ("train", "find-lr", "sweep", "average", "report", "plot"),
    "evaluate": ("evaluate", "score", "tune", "calibrate"),
    "deploy": ("models", "export", "import", "completion"),
}


def caption(options: argparse.Namespace) -> int:
    """Describe images."""
    from captionkit.cli.caption import caption_inputs
    from captionkit.cli.caption_writer import WriteOptions

    return caption_inputs(
        options.inputs,
        model=options.model,
        as_json=options.json,
        output=options.output,
        attention=options.attention,
        batch_size=options.batch_size,
        decoding=_overrides(options, "decoding"),
        min_confidence=options.min_confidence,
        write=WriteOptions(**_overrides(options, "write")),
        runtime=_runtime(options),
    )


def bulk(options: argparse.Namespace) -> int:
    """Caption datasets of any size in parts, and go on where a run was interrupted."""
    from captionkit.cli.bulk import bulk_inputs

    return bulk_inputs(options, decoding=_overrides(options, "decoding"), runtime=_runtime(options))


def train(options: argparse.Namespace) -> int:
    """Train a captioner on captioned images."""
    from captionkit.training.config.recipe import load_recipe, usual_recipe

    overrides = _overrides(options)
    if options.resume and (options.recipe or overrides):
        raise CaptionkitError("--resume goes on with the recipe stored in the run; leave out --recipe and its fields")
    recipe = load_recipe(options.recipe, overrides)
    usual = usual_recipe(recipe.trainer.init)
    if usual and not options.recipe and os.environ.get("RANK", "0") == "0":
        print_message(
            f"recipe {usual}, as with --init none is named; --recipe names another, and flags change its fields"
        )
    from captionkit.training.trainer import train as run

    run(options.data, options.output, recipe, resume=options.resume)
    return 0


def find_lr(options: argparse.Namespace) -> int:
    """Find the learning rate to train with, by a range test."""
    from captionkit.training.config.recipe import load_recipe

    recipe = load_recipe(options.recipe, _overrides(options))
    from captionkit.training.tools.lr_finder import find_rates

    tests, suggested = find_rates(options.data, options.output, recipe, steps=options.steps)
    for test in tests:
        print_message(f"captionkit: {test}")
    print_message(f"captionkit: the curves are in {options.output}; to train with what they suggest:")
    print_result(shlex.join(["captionkit", "train", str(options.data), "--output", "RUN", *suggested.to_flags()]))
    return 0


def sweep(options: argparse.Namespace) -> int:
    """Search for the recipe fields that train best."""
    from captionkit.training.config.recipe import load_recipe

    overrides = _overrides(options)
    recipe = load_recipe(options.recipe, overrides)
    from captionkit.training.tools.sweep import sweep as run

    run(
        options.data,
        options.output,
        recipe,
        space=options.space,
        given=tuple(overrides),
        trials=options.trials,
        minutes=options.max_minutes,
        workers=options.workers,
    )
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Caption a dataset's split with a model, and score the captions."""
    from captionkit.eval.evaluate import GALLERY, RESULTS, SCORES, evaluate_model

    done = evaluate_model(
        options.model,
        options.data,
        options.output,
        split=options.split,
        metrics=_metrics(options),
        batch_size=options.batch_size,
        decoding=(decoding := _overrides(options, "decoding")),
        resamples=options.resamples,
        seed=decoding.get("seed", 0),
        runtime=_runtime(options),
    )
    _show(done.scores, done.scores.notes, options.json)
    print_message(f"captionkit: {RESULTS}, {SCORES} and {GALLERY} are in {done.folder}")
    return 1 if done.failures else 0


def tune(options: argparse.Namespace) -> int:
    """Choose the decoding options that score best on captioned images."""
    from captionkit.eval.tune_decoding import tune_model

    tuning = tune_model(
        options.model,
        options.data,
        split=options.split,
        num_beams=options.num_beams,
        length_penalties=options.length_penalty,
        no_repeat_ngram_sizes=options.no_repeat_ngram_size,
        early_stop_horizons=options.early_stop_horizon,
        write=options.write,
        runtime=_runtime(options),
    )
    print_result(json.dumps(tuning.to_dict(), indent=1) if options.json else tuning)
    return 0


def calibrate(options: argparse.Namespace) -> int:
    """Fit a model's confidence on captioned images."""
    from captionkit.eval.fit_confidence import calibrate_model

    fitted = calibrate_model(
        options.model,
        options.data,
        split=options.split,
        write=options.write,
        resamples=options.resamples,
        runtime=_runtime(options),
    )
    print(json.dumps(fitted.to_dict(), ensure_ascii=False, indent=1) if options.json else fitted)
    return 0


def average(options: argparse.Namespace) -> int:
    """Average the weights of models that were trained from one."""
    from captionkit.training.tools.model_soup import average_models

    models, data = _models_and_data(options.models, options.data)
    chosen = {"split": options.split, "half": options.half, "every": options.all}
    print_result(average_models(Path(data), models, options.output, **chosen))
    return 0


def _models_and_data(models: list[str], data: str) -> tuple[list[str], str]:
    """The models and the data of `average`, which used to come in the other order: taken where it is clear."""
    from captionkit.inference.model_folder import CONFIG
    from captionkit.utils.paths import exists, is_file

    def is_model(path: str) -> bool:
        return path == "bundled" or is_file(Path(path) / CONFIG)

    if is_model(data) and exists(models[0]) and not is_model(models[0]):
        print_message("captionkit: the data comes last now: captionkit average MODEL MODEL ... DATA")
        return [*models[1:], data], models[0]
    return models, data


def name(options: argparse.Namespace) -> int:
    """Caption class folders with sentences that name the classes."""
    from captionkit.cli.name import name_images

    done = name_images(
        options.data, options.noun, model=options.model, batch_size=options.batch_size, runtime=_runtime(options)
    )
    print_message(f"captionkit: {done}")
    return 1 if done.failures else 0


def score(options: argparse.Namespace) -> int:
    """Score captions against references."""
    from captionkit.eval.score_files import score_files

    scored = score_files(
        options.references,
        options.candidates,
        split=options.split,
        metrics=_metrics(options),
        tokenizer=options.tokenizer,
        frequencies=options.frequencies,
        training=options.training,
        compare=options.compare,
        per_image=options.per_image,
        resamples=options.resamples,
        seed=options.seed,
    )
    _show(scored, scored.scores.notes, options.json)
    return 0


def _overrides(options: argparse.Namespace, kind: str = "recipe") -> dict[str, Any]:
    """The fields of a recipe, or of another `kind` of table, that were given as flags."""
    given = {name: value for name, value in vars(options).items() if name.startswith(f"{kind}:")}
    return {name.removeprefix(f"{kind}:"): value for name, value in given.items() if value is not None}


def _metrics(options: argparse.Namespace) -> list[Any] | None:
    """The metrics asked for; None for the usual ones."""
    if options.metrics is None and not (options.clip or options.chair):
        return None
    named = "usual" if options.metrics is None else options.metrics
    chosen: list[Any] = [name.strip() for name in named.split(",") if name.strip()]
    if options.chair:
        chosen.append("chair")
    if options.clip:
        from captionkit.models.load_clip import load_clip_score

        chosen.append(load_clip_score(options.clip))
    return chosen


def _show(report: Any, notes: Sequence[str], as_json: bool) -> None:
    for note in notes:
        print_message(f"captionkit: {note}")
    print_result(json.dumps(report.to_dict(), ensure_ascii=False, indent=1) if as_json else report)


def inspect(options: argparse.Namespace) -> int:
    """Report the contents and problems of a dataset, a model or a run."""
    from captionkit.cli.inspect import ModelReport, inspect_path

    report = inspect_path(options.path, layout=options.layout, check_images=options.check_images)
    summary = None
    if isinstance(report, ModelReport) and not report.source:  # an imported model has no torch network here
        summary = _summary(str(Path(report.path).absolute()))
    if options.json:
        values = report.to_dict() | ({"summary": summary.to_dict()} if summary else {})
        print_result(json.dumps(values, ensure_ascii=False, indent=1))
    else:
        print_result(f"{report}\n\n{summary}" if summary else report)
    return 0 if report.sound else 1


def _summary(model: str) -> Any:
    """A model part by part, as the heavy half tells it; None, with a line that says why, where it cannot."""
    from captionkit.inference.model_folder import open_model

    try:
        from captionkit.models.summary import summarize_folder

        return summarize_folder(open_model(model))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("captionkit"):
            raise
        more = f"{error.name} is not installed; `{_INSTALL}[train]'` adds each part's shape, parameters, FLOPs, memory"
    except CaptionkitError as error:
        more = f"its parts cannot be listed: {error}"
    print_message(f"captionkit: {more}")
    return None


def export(options: argparse.Namespace) -> int:
    """Write a model's ONNX graphs, in float or 8 bits, and check them."""
    asked = {name: getattr(options, name) for name in ("evaluate", "split", "limit", "max_loss")}
    given = {name: value for name, value in asked.items() if value is not None}
    if options.int8:
        from captionkit.export.quantization.int8 import export_int8

        if options.half or (given and options.evaluate is None):
            raise CaptionkitError("--half is for float graphs; --split, --limit and --max-loss go with --evaluate DATA")
        if options.output is None:
            raise CaptionkitError("--int8 writes a model folder of its own; name it with --output FOLDER")
        given["data"] = given.pop("evaluate", None)
        given["keep_weights"] = options.keep_weights
        print_result(export_int8(options.model, options.output, images=options.images, **given))
        return 0
    from captionkit.export.export_model import export_model

    if given or options.output or options.keep_weights:
        others = "--output, --keep-weights, --evaluate, --split, --limit and --max-loss"
        raise CaptionkitError(f"{others} go with --int8; add it")
    print_result(export_model(options.model, images=options.images, half=options.half))
    return 0


def import_(options: argparse.Namespace) -> int:
    """Turn a captioner of transformers into a model folder that needs no torch."""
    from captionkit.export.importers.convert import Judging, import_model

    asked = {name: getattr(options, name) for name in ("split", "limit", "max_loss")}
    given = {name: value for name, value in asked.items() if value is not None}
    if given and options.evaluate is None:
        raise CaptionkitError("--split, --limit and --max-loss go with --evaluate DATA; add it")
    report = import_model(
        options.model,
        options.output,
        precisions=options.precision,
        images=options.images,
        style=options.style,
        judging=Judging(options.evaluate, **given),
    )
    print_result(report)
    return 0


def serve(options: argparse.Namespace) -> int:
    """Serve captions over HTTP and on a web page."""
    from captionkit.serve.settings import Settings

    settings = Settings(**_overrides(options, "serve"))
    from captionkit.serve.server import serve as run

    if options.place is not None:
        if options.model is not None:
            raise CaptionkitError(f"{options.place!r}: the model is named by --model alone; drop one of the two")
        print_message("captionkit: the model is named by --model now: captionkit serve --model MODEL")
    run(options.model or options.place, settings)
    return 0


def mcp(options: argparse.Namespace) -> int:
    """Offer captions to assistants as a tool (Model Context Protocol)."""
    from captionkit.serve.mcp_server import serve_tools

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to save, and reading standard input goes on else
    serve_tools(_runtime(options).load(options.model), allow_urls=options.allow_urls)
    return 0


def plot(options: argparse.Namespace) -> int:
    """Draw the curves of a run, or compare several."""
    from captionkit.cli.inspect import plot_runs

    plot_runs(options.runs, options.output)
    print_message(f"curves: {options.output}")
    return 0


def report(options: argparse.Namespace) -> int:
    """Write the report of a run: report.html and report.md."""
    from captionkit.training.report.command import report_run

    print_result(report_run(options.run, options.data))
    return 0


def watch(options: argparse.Namespace) -> int:
    """Caption images as they arrive in a folder."""
    from captionkit.cli.caption_writer import WriteOptions
    from captionkit.cli.watch import watch_folder

    return watch_folder(
        options.folder,
        WriteOptions(**_overrides(options, "write")),
        model=options.model,
        decoding=_overrides(options, "decoding"),
        min_confidence=options.min_confidence,
        runtime=_runtime(options),
    )


def models(options: argparse.Namespace) -> int:
    """List the models at hand and those known by name."""
    from captionkit.inference.models_list import list_models, models_table

    found = list_models()
    if options.json:
        print_result(json.dumps([model.to_dict() for model in found], ensure_ascii=False, indent=1))
        return 0
    print_result(models_table(found))
    print_result("\nhub: fetched when --model names it; import: made with `captionkit import ID --output FOLDER` first")
    return 0


def metadata(options: argparse.Namespace) -> int:
    """Show captions in metadata and XMP files, or clear captionkit's own."""
    from captionkit.cli.metadata import clear_metadata, show_metadata

    if (options.json and options.clear) or (options.dry_run and not options.clear):
        raise CaptionkitError("--dry-run goes with --clear, and --json without it")
    if options.clear:
        return clear_metadata(options.inputs, dry_run=options.dry_run)
    return show_metadata(options.inputs, as_json=options.json)


def alttext(options: argparse.Namespace) -> int:
    """Fill missing alt text in HTML, Markdown and CSV files."""
    from captionkit.cli.alttext import fill_alt_text

    given = {"max_chars": options.max_chars} if options.max_chars is not None else {}
    return fill_alt_text(
        options.site,
        model=options.model,
        column=options.column or "",
        min_confidence=options.min_confidence,
        dry_run=options.dry_run,
        batch_size=options.batch_size,
        runtime=_runtime(options),
        **given,
    )


def completion(options: argparse.Namespace) -> int:
    """Print a script that completes commands, options and files in a shell."""
    from captionkit.cli.completion import completion_script

    print_result(completion_script(_parser(["completion"]), options.shell, paths=(_named, _path)))
    return 0


def demo(options: argparse.Namespace) -> int:
    """Caption sample photographs onto a page with attention maps."""
    from captionkit.cli.caption import caption_samples

    return caption_samples(
        options.output, model=options.model, min_confidence=options.min_confidence, runtime=_runtime(options)
    )


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    from captionkit.cli.recipe_flags import add_recipe
    from captionkit.serve.settings import Settings

    def asked(command: str) -> bool:
        return arguments[:1] in ([command], ["completion"])  # which tells of the options of all

    parser = Parser(prog="captionkit", usage="captionkit COMMAND ...", description=_ABOUT, epilog=_MORE, groups=_GROUPS)
    parser.add_argument("--version", action="version", version=f"captionkit {__version__}")
    commands = parser.add_subparsers(prog="captionkit", metavar="COMMAND", required=True)

    add = _add(commands, caption, extra="")
    add(
        "inputs",
        nargs="+",
        metavar="IMAGE",
        help="image, folder, pattern such as 'photos/*.jpg', or - for standard input",
    )
    add("--model", type=_named, help=_MODEL + " (default: the model that comes with captionkit)")
    _add_runtime(add, style=False)
    _add_decoding(add, fields=asked("caption"))
    _add_min_confidence(add, "mark captions of less confidence, 0 to 1: a last field 'review', or so in JSON")
    add("--json", action="store_true", help="one JSON object a line")
    add(
        "--attention",
        metavar="OUT",
        type=_path,
        help="where the model looked: OUT.png, .gif or .npz, a folder for several, or - for terminal or JSON",
    )
    add("--output", metavar="FILE", type=_path, help="also write a file: .json (COCO results), .jsonl or .csv")
    _add_write(add)

    add = _add(commands, bulk, extra="bulk")
    _add_bulk(add, fields=asked("bulk"))

    add = _add(commands, train, extra="train")
    add(
        "data",
        type=_path,
        nargs="+",
        metavar="DATA",
        help="captioned images, in any layout that `captionkit inspect` knows; of several, the first's validation "
        "split decides what is kept, and --data.weights says how often each is shown",
    )
    add("--output", type=_path, required=True, metavar="RUN", help="folder for everything the run makes")
    add("--resume", action="store_true", help="go on with the run in --output")
    add_recipe(commands.choices["train"], _named, fields=asked("train"))

    add = _add(commands, find_lr, extra="train")
    add("data", type=_path, metavar="DATA", help="captioned images, in any layout that `captionkit inspect` knows")
    add(
        "--output",
        type=_path,
        default=Path("learning-rate.png"),
        metavar="FILE",
        help="the plot; its points come beside it, as .json (default: %(default)s)",
    )
    add("--steps", type=int, default=200, help="over which the rate rises (default: %(default)s)")
    add_recipe(commands.choices["find-lr"], _named, fields=asked("find-lr"))

    add = _add(commands, sweep, extra="train")
    add("data", type=_path, metavar="DATA", help="captioned images, in any layout that `captionkit inspect` knows")
    add("--output", type=_path, required=True, metavar="FOLDER", help="for the trials and the report; goes on if begun")
    add("--space", type=_path, metavar="FILE", help="TOML: recipe fields with choices or ranges (default: the usual)")
    add("--trials", type=int, default=20, metavar="N", help="to begin in all, over all sessions (default: %(default)s)")
    add("--max-minutes", old=["--timeout"], type=float, metavar="X", help="after which no trial is begun")
    add("--workers", type=int, default=1, metavar="N", help="processes, each of one thread (default: %(default)s)")
    add_recipe(commands.choices["sweep"], _named, fields=asked("sweep"))

    add = _add(commands, evaluate, extra="train")
    add("model", type=_named, metavar="MODEL", help=_MODEL)
    add("data", type=_path, metavar="DATA", help="captioned images, in any layout that `captionkit inspect` knows")
    add("--split", default="val", help="which of its splits (default: %(default)s)")
    _add_runtime(add)
    _add_decoding(add, fields=asked("evaluate"))
    _add_scoring(add, seed=False)  # --seed is there already
    add(
        "--output",
        type=_path,
        default=Path("captionkit-evaluation"),
        metavar="FOLDER",
        help="for results.json, scores.json and gallery.html (default: %(default)s)",
    )

    add = _add(commands, tune, extra="train")
    add("model", type=_named, metavar="MODEL", help=_MODEL)
    add("data", type=_path, metavar="DATA", help="captioned images, in any layout that `captionkit inspect` knows")
    add("--split", default="val", help="which of its splits (default: %(default)s)")
    add(
        "--num-beams",
        old=["--beam"],
        type=_numbers(int),
        default=(1, 3, 5),
        metavar="N,...",
        help="to try (default: 1,3,5)",
    )
    penalties = (0.5, 0.7, 0.85, 1.0, 1.2)
    usual = ",".join(map(str, penalties))
    add("--length-penalty", type=_numbers(float), default=penalties, metavar="X,...", help=f"to try (default: {usual})")
    add(
        "--no-repeat-ngram-size",
        old=["--no-repeat"],
        type=_numbers(int),
        default=(3,),
        metavar="N,...",
        help="to try (default: 3)",
    )
    add(
        "--early-stop-horizon",
        old=["--horizon"],
        type=_numbers(int),
        metavar="N,...",
        help="to try; a small one saves steps (default: the model's)",
    )
    add("--write", action="store_true", help="make the best what the model captions with")
    _add_runtime(add)
    add("--json", action="store_true", help="machine-readable")

    add = _add(commands, calibrate, extra="train")
    add("model", metavar="MODEL", help=_MODEL)
    add(
        "data",
        type=Path,
        nargs="+",
        metavar="DATA",
        help="captioned images, in any layout that `captionkit inspect` knows; all images count alike",
    )
    add("--split", default="val", help="which of their splits (default: %(default)s)")
    add("--write", action="store_true", help="store what was fitted: in the model folder, or beside one of others")
    _add_runtime(add)
    add("--resamples", type=int, default=1000, metavar="N", help="for confidence intervals; 0: none (default: 1000)")
    add("--json", action="store_true", help="machine-readable")

    add = _add(commands, average, extra="train")
    add("models", type=_named, nargs="+", metavar="MODEL", help="model folders or Hub ids, all trained from one model")
    add("data", type=_named, metavar="DATA", help="captioned images, in any layout that `captionkit inspect` knows")
    add("--output", type=_path, required=True, metavar="FOLDER", help="the model folder to write")
    add("--split", default="val", help="the split that decides which are averaged (default: %(default)s)")
    add("--half", action="store_true", help="store the mean in 16 bits, as it is where all that is averaged are")
    add("--all", action="store_true", help="average all of them, whether it helps or not")

    add = _add(commands, name, extra="")
    add("data", type=_path, metavar="DATA", help="class folders: NAME/1.jpg, or train/NAME/1.jpg, valid/NAME/1.jpg")
    add("--noun", required=True, metavar="TEXT", help="what the model calls all that they show, for instance bird")
    add("--model", type=_named, help=_MODEL + " (default: the model that comes with captionkit)")
    _add_runtime(add)
    _add_batch_size(add)

    add = _add(commands, score, extra="train")
    add(
        "references",
        type=_named,
        metavar="REFERENCES",
        help="captions that people wrote: COCO or Karpathy JSON, CSV, or a dataset",
    )
    add(
        "candidates",
        type=_named,
        metavar="CANDIDATES",
        help="captions to score: COCO results (.json), .jsonl, .csv, or a folder with a text file for each image",
    )
    add("--split", help="of the references (default: the one that the candidates are of)")
    _add_scoring(add)
    add("--per-image", type=_path, metavar="OUT.csv", help="write the scores of each image")
    add("--compare", type=_named, metavar="OTHER", help="another results file: what differs, and how surely")
    add("--tokenizer", choices=("ptb", "words"), help="coco-caption's, or one for any language (default: what suits)")
    add("--frequencies", type=_path, metavar="FILE", help="CIDEr's document frequencies: references, or a saved .npz")
    add(
        "--training",
        type=_named,
        metavar="DATA",
        help="the captions of the training set, to tell how many candidates are new",
    )

    add = _add(commands, inspect, extra="train")
    add("path", type=_named, metavar="PATH", help="dataset, model folder, Hub id, or run folder")
    add("--layout", help="read the dataset as this layout instead of detecting it")
    add("--check-images", old=["--images"], action="store_true", help="also open every image")
    add("--json", action="store_true", help="machine-readable")

    add = _add(commands, export, extra="train")
    add("model", type=_named, metavar="MODEL", help="model folder with weights")
    what = "real images to try the graphs on (default: sample photographs)"
    add("--images", old=["--pictures"], type=_path, metavar="DIR", help=what)
    add("--half", action="store_true", help="store the graphs' weights in 16 bits")
    add("--int8", action="store_true", help="graphs that compute in 8 bits, in a model folder of their own")
    add("--output", type=_path, metavar="FOLDER", help="the folder for --int8")
    add("--keep-weights", action="store_true", help="put the weights to train on into that folder too")
    add("--evaluate", type=_path, metavar="DATA", help="score captions before and after --int8 on these images")
    add("--split", help="which of its splits (default: val)")
    add("--limit", type=int, metavar="N", help="the first N of its images alone")
    add("--max-loss", type=float, metavar="X", help="share of CIDEr-D that --int8 may cost (default: 0.01)")

    add = _add(commands, models, extra="")
    add("--json", action="store_true", help="machine-readable, with their Hub ids")

    add = _add(commands, import_, extra="train")
    add("model", metavar="MODEL", help="folder that transformers saved, or Hub id; MODEL@REVISION for one revision")
    add("--output", type=_path, required=True, metavar="FOLDER", help="the model folder to write")
    add(
        "--precision",
        type=_listed,
        default=("fp32", "fp16", "int8"),
        metavar="P,...",
        help="graphs to write: fp32, fp16 (stored in 16 bits), int8 (computes in 8 bits); default: all three",
    )
    add("--images", type=_path, metavar="DIR", help="real images to try the graphs on (default: sample photographs)")
    add("--style", default="short", help="of Florence-2's captions: short, detailed or long (default: %(default)s)")
    add("--evaluate", type=_path, metavar="DATA", help="score captions before and after int8 on these images")
    add("--split", help="which of its splits (default: val)")
    add("--limit", type=int, metavar="N", help="the first N of its images alone")
    add("--max-loss", type=float, metavar="X", help="share of CIDEr-D that int8 may cost (default: 0.01)")

    add = _add(commands, serve, extra="serve")
    add("place", type=_named, nargs="?", help=argparse.SUPPRESS)
    add("--model", type=_named, help=_MODEL + " (default: the model that comes with captionkit)")
    _add_fields(add, Settings, "serve", old={"max_batch_size": "--max-batch"}, defaults=True)

    add = _add(commands, mcp, extra="mcp")
    add("--model", type=_named, help=_MODEL + " (default: the model that comes with captionkit)")
    add("--allow-urls", action="store_true", help="fetch images that are named by URL, from public addresses only")
    _add_runtime(add)

    add = _add(commands, plot, extra="plot")
    add("runs", type=_named, nargs="+", metavar="RUN", help="folders that `captionkit train` made")
    add("--output", type=_path, default=Path("curves.png"), metavar="FILE", help="the image (default: %(default)s)")

    add = _add(commands, report, extra="train")
    add("run", type=_path, metavar="RUN", help="folder that `captionkit train` made")
    add("--data", type=_path, nargs="+", metavar="DATA", help="where its images lie now (default: where they lay)")

    add = _add(commands, watch, extra="watch")
    add("folder", type=_path, metavar="DIR", help="the folder in which images arrive, at any depth")
    add("--model", type=_named, help="model folder or Hub id (default: the model that comes with captionkit)")
    _add_runtime(add, style=False)
    _add_write(add)
    _add_min_confidence(add, "word alt text of less confidence, 0 to 1, as a guess")

    add = _add(commands, metadata, extra="metadata")
    add("inputs", nargs="+", metavar="PHOTO", help="image, folder, or pattern such as 'photos/*.jpg'")
    add("--clear", action="store_true", help="remove the texts that captionkit wrote and nobody changed since")
    add("--dry-run", action="store_true", help="with --clear: only say what would be removed")
    add("--json", action="store_true", help="one JSON object a line")

    add = _add(commands, alttext, extra="")
    add("site", type=_path, metavar="SITE", help="folder of pages and images, or one page")
    add("--model", type=_named, help=_MODEL + " (default: the model that comes with captionkit)")
    _add_runtime(add)
    add("--dry-run", action="store_true", help="show what would change, as a diff, and change nothing")
    add("--max-chars", metavar="N", type=int, help="most characters of an alt text (default: 125)")
    _add_min_confidence(add, "word captions of less confidence, 0 to 1, as guesses, and list them for review")
    add("--column", metavar="NAME", type=_named, help="column of a CSV for alt text (default: alt)")
    add("--batch-size", type=int, default=16, metavar="N", help="images in one batch (default: %(default)s)")

    add = _add(commands, completion, extra="completion")
    add("shell", choices=("bash", "zsh", "fish"), help="the shell")

    add = _add(commands, demo, extra="demo")
    add("--model", type=_named, help=_MODEL + " (default: the model that comes with captionkit)")
    _add_runtime(add)
    add(
        "--output",
        type=_path,
        default=Path("captionkit-demo.html"),
        metavar="FILE",
        help="the page (default: %(default)s)",
    )
    _add_min_confidence(add, "say 'not sure' of captions of less confidence, 0 to 1 (default: the model's own)")
    return parser


def _add(commands: Any, command: Command, *, extra: str) -> Callable[..., Any]:
    text = (command.__doc__ or "").strip()
    parser = commands.add_parser(
        command.__name__.strip("_").replace("_", "-"), help=text[0].lower() + text[1:].rstrip("."), description=text
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="also say what is done meanwhile")
    parser.set_defaults(command=command, extra=extra, parser=parser)
    return parser.add_argument


def _add_bulk(add: Callable[..., Any], *, fields: bool) -> None:
    add(
        "places",
        type=_named,
        nargs="+",
        metavar="INPUT OUTPUT",
        help="INPUT: folder, .tar shard, .parquet, list of paths, - for standard input, hf:NAME, or an address such as "
        "s3://...; OUTPUT: folder or address for the parts. Or: merge SHARE ... OUTPUT, to join what --shard made",
    )
    add("--model", type=_named, help="model folder or Hub id (default: the model that comes with captionkit)")
    _add_runtime(add)
    add("--format", default="jsonl", metavar="KIND", help="of the parts: jsonl, parquet, txt, shards (default: jsonl)")
    _add_decoding(add, fields=fields)
    _add_min_confidence(add, "mark captions of less confidence, 0 to 1: review is true in their records")
    add("--image-column", type=_named, metavar="NAME", help="of tables (default: what fits)")
    add("--allow-urls", action="store_true", help="fetch images that the input names by URL, from public addresses")
    add("--part-size", type=int, default=1024, metavar="N", help="images of a part (default: %(default)s)")
    add("--shard", default="1/1", metavar="I/N", help="caption share I of N only, as on one of N machines")
    add("--restart", action="store_true", help="discard what an earlier run wrote, and start over")
    add("--max-errors", type=int, metavar="N", help="images that may fail; more end the run (default: any number)")
    add("--workers", type=int, default=0, metavar="N", help="processes (default: one a processor)")
    add("--threads", type=int, default=1, metavar="N", help="of each worker (default: %(default)s)")
    add("--engine", default="local", choices=("local", "ray"), help="what runs the workers (default: %(default)s)")
    add("--address", type=_named, metavar="RAY", help="of a Ray cluster: auto, or ray://HOST:10001 (default: its own)")
    add("--push", type=_named, metavar="OWNER/NAME", help="upload the parts to this dataset of the Hugging Face Hub")
    add("--log-format", default="text", metavar="KIND", help="of the log: text or json (default: text)")
    add("--metrics-file", type=_path, metavar="FILE", help="numbers for Prometheus' textfile collector, FILE.prom")


def _add_decoding(add: Callable[..., Any], *, fields: bool) -> None:
    """The batch size, and (with `fields`, which need numpy) a flag for every field of Decoding."""
    if fields:
        from captionkit.inference.search import RENAMED, Decoding

        old = {new: _flag_of(name) for name, new in RENAMED.items()}
        _add_fields(add, Decoding, "decoding", old={**old, "bad_words": "--ban", "seed": "--sample-seed"})
    _add_batch_size(add)


def _add_runtime(add: Callable[..., Any], *, style: bool = True) -> None:
    """How the model is run, and (with `style`) how long the captions of a prompted model are."""
    from captionkit.inference.devices import DEVICES, PRECISIONS, STYLES

    add("--device", default="cpu", metavar="NAME", help=f"that the model runs on: {', '.join(DEVICES)} (default: cpu)")
    precisions = ("auto", *PRECISIONS)
    add("--precision", choices=precisions, default="auto", help="of a model that comes in several (default: auto)")
    if style:
        add("--style", choices=STYLES, default="", help="of captions, for a model that takes a prompt")


def _runtime(options: argparse.Namespace) -> Any:
    """The settings that `_add_runtime` added."""
    from captionkit.inference.devices import STYLES
    from captionkit.inference.load import Runtime

    style = getattr(options, "style", getattr(options, "write:style", ""))
    return Runtime(device=options.device, precision=options.precision, style=style if style in STYLES else "")


def _add_batch_size(add: Callable[..., Any]) -> None:
    what = "images that go through the model together (default: 16)"
    add("--batch-size", old=["--batch"], type=int, default=16, metavar="N", help=what)


def _add_write(add: Callable[..., Any]) -> None:
    """Where captions go besides standard output, and how they are worded: the fields of WriteOptions."""

    from captionkit.inference.devices import STYLES

    def option(flag: str, **how: Any) -> None:
        add(flag, group="writing", dest=f"write:{flag.lstrip('-').replace('-', '_')}", **how)

    option("--sidecar", metavar="SUFFIX", type=_named, help="write each caption beside its image, as text: .txt")
    option("--output-dir", metavar="DIR", type=_path, help="put the text files there, in folders like the images'")
    option("--prepend", metavar="TEXT", help="literal text before each caption written, such as a trigger word")
    option("--append", metavar="TEXT", help="literal text after each caption written")
    option(
        "--existing",
        choices=("skip", "overwrite", "append", "prepend"),
        help="where a text is already: leave it (the default), replace it, or add the caption after or before it",
    )
    option(
        "--write",
        choices=("xmp", "embed", "both"),
        help="write metadata: XMP files beside the images, into the images (needs exiftool), or both",
    )
    option("--fields", metavar="NAMES", type=_listed, help="some of description, image-description, alt, extended")
    option("--dry-run", action="store_true", default=None, help="only say what would be written")
    styles = ("alt", *STYLES)
    option("--style", choices=styles, help="alt: for those who do not see the image; others: if the model has them")
    option("--max-chars", metavar="N", type=int, help="most characters of --style alt (default: 125)")


def _add_min_confidence(add: Callable[..., Any], text: str) -> None:
    add("--min-confidence", type=float, metavar="X", help=text)


#: the headings of decoding options in the help; all others are under "search"
_DECODING_GROUPS = {
    "sampling": ("temperature", "top_k", "top_p", "seed"),
    "words": ("prefix", "force_words", "bad_words"),
}


def _flag_of(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _add_fields(
    add: Callable[..., Any],
    table: type,
    kind: str,
    *,
    old: Mapping[str, str] = MappingProxyType({}),
    defaults: bool = False,
) -> None:
    """A flag for every field of a dataclass, with the help that stands in its metadata, and its `old` flag if any."""
    from dataclasses import fields

    kinds: dict[type, tuple[dict[str, Any], str]] = {
        bool: ({"action": "store_true", "default": None}, ""),
        int: ({"type": int, "metavar": "N"}, ""),
        float: ({"type": float, "metavar": "X"}, ""),
        str: ({"type": str, "metavar": "TEXT"}, ""),
        tuple: ({"type": _listed, "metavar": "WORDS"}, "; with commas"),
    }
    groups = {name: group for group, names in _DECODING_GROUPS.items() for name in names}
    for field in fields(table):
        dest, (how, note) = f"{kind}:{field.name}", kinds[type(field.default)]
        if defaults and field.default:
            note += f" (default: {field.default})"
        former = [old[field.name]] if field.name in old else []
        group = groups.get(field.name, "search") if kind == "decoding" else ""
        add(
            _flag_of(field.name),
            old=former,
            group=group,
            dest=dest,
            help=(field.metadata["help"] + note).replace("%", "%%"),
            **how,
        )


def _named(text: str) -> str:
    """What names a file, a folder or a model."""
    if not text:  # pathlib would take it for the current folder
        raise argparse.ArgumentTypeError("an empty name; is a shell variable unset?")
    return text


def _path(text: str) -> Path:
    return Path(_named(text))


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def numbers(text: str) -> tuple[Any, ...]:
        return tuple(kind(part) for part in text.split(",") if part.strip())

    return numbers


def _listed(phrases: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in phrases.split(",") if phrase.strip())


def _add_scoring(add: Callable[..., Any], *, seed: bool = True) -> None:
    names = "bleu, meteor, rouge, cider, cider-plain, spice, chair, diversity"
    add("--metrics", metavar="NAMES", help=f"{names}; with commas; 'usual': the default's")
    add("--chair", action="store_true", help="also CHAIR: how often captions name objects that no reference has")
    add(
        "--clip",
        type=_named,
        metavar="CLIP",
        help="also CLIPScore and RefCLIPScore, by this CLIP model: a folder or Hub id",
    )
    add("--resamples", type=int, default=1000, metavar="N", help="for confidence intervals; 0: none (default: 1000)")
    if seed:
        add("--seed", type=int, default=0, metavar="N", help="seed of the resamples (default: 0)")
    add("--json", action="store_true", help="machine-readable")
