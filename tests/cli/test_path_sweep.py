"""Every command and every flag that takes a path, given every kind of path that cannot be used.

None ends in a traceback, none waits for ever, and none changes a file that is there. The commands and their flags are
read from the parser, so a new one fails here until the tables below say what it takes.

The commands run in a process of an ordinary user, as root passes by the rights of files: this file is its program too.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

COMMANDS = (
    *("caption", "train", "find-lr", "sweep", "evaluate", "tune", "calibrate", "average", "name"),
    *("score", "inspect", "export", "serve", "plot", "report", "demo"),
    *("alttext", "metadata", "watch", "bulk", "models", "import", "mcp", "completion"),
)

#: what names something to read, by the name of the argument (or of the command and it): how its name must end
INPUTS = {
    "inputs": ".jpg",
    "data": "",
    "model": "",
    "models": "",
    "references": ".json",
    "candidates": ".json",
    "path": "",
    "place": "",
    "places": "",
    "site": "",
    "folder": "",
    "runs": "",
    "run": "",
    "--model": "",
    "--init": "",
    "--recipe": ".toml",
    "--space": ".toml",
    "--clip": "",
    "--compare": ".json",
    "--frequencies": ".npz",
    "--training": "",
    "--images": "",
    "--evaluate": "",
    "--data": "",
    "--encoder.name": "",
    "--encoder.weights": ".safetensors",
    "--distillation.teachers": "",
    "--trainer.clip": "",
}
#: what names something to write
OUTPUTS = {
    "caption --output": ".json",
    "caption --attention": "",
    "find-lr --output": ".png",
    "plot --output": ".png",
    "demo --output": ".html",
    "--output": "",
    "--per-image": ".csv",
    "--metrics-file": ".prom",
    "--output-dir": "",
}
#: texts that are no paths
WORDS = {
    "shell",
    *("--bad-words", "--prefix", "--force-words", "--split", "--metrics", "--layout", "--tokenizer"),
    *("--sidecar", "--prepend", "--append", "--existing", "--style", "--write", "--fields", "--column"),
    *("--device", "--precision", "--early-stopping", "--format", "--image-column", "--shard", "--engine", "--address"),
    *("--push", "--noun", "--host", "--token", "--cors", "--log-format", "--root-path"),
    *("--num-beams", "--length-penalty", "--no-repeat-ngram-size", "--early-stop-horizon"),
    *(
        "--data.train-split",
        "--data.val-split",
        "--data.tokenizer",
        "--data.weights",
        "--image.fit",
        "--image.random-resized-crop-scale",
    ),
    *("--image.flip-unless", "--image.flip-swap", "--encoder.train", "--decoder.name", "--decoder.kind"),
    *("--decoder.size", "--loss.objective", "--optimizer.name", "--optimizer.schedule", "--trainer.precision"),
    *(
        "--self-critical.baseline",
        "--trainer.gradient-checkpointing",
        "--trainer.compile",
        "--trainer.report-to",
        "--trainer.monitor",
        "--trainer.save-dtype",
    ),
}
#: recipe fields for which "" means none, as their help says
MAY_BE_EMPTY = {"--trainer.clip", "--encoder.name", "--encoder.weights", "--distillation.teachers"}

#: what each command wants besides the argument that is tried: things that are there, under the folder of the test
USUAL: dict[str, dict[str, str]] = {
    "caption": {"inputs": "good/a.png"},
    "train": {"data": "good", "--output": "new"},
    "find-lr": {"data": "good", "--output": "new.png"},
    "sweep": {"data": "good", "--output": "new"},
    "evaluate": {"model": "bundled", "data": "good", "--output": "new", "--metrics": "rouge"},
    "tune": {"model": "bundled", "data": "good"},
    "calibrate": {"model": "bundled", "data": "good"},
    "average": {"models": "bundled", "data": "good", "--output": "new"},
    "name": {"data": "good", "--noun": "shape"},
    "score": {"references": "good/captions.json", "candidates": "results.json", "--metrics": "rouge"},
    "inspect": {"path": "good"},
    "export": {"model": "bundled"},
    "serve": {"--model": "bundled"},
    "mcp": {"--model": "bundled"},
    "plot": {"runs": "run", "--output": "new.png"},
    "report": {"run": "run"},
    "demo": {"--output": "new.html"},
    "alttext": {"site": "good"},
    "metadata": {"inputs": "good/a.png"},
    "watch": {"folder": "good", "--sidecar": ".txt"},
    "bulk": {"places": "good"},
    "models": {},
    "completion": {"shell": "bash"},
    "import": {"model": "missing", "--output": "new"},
}
#: commands that share a process, as loading what they take is most of their time; two commands take no path
TOGETHER = {
    "training": ("train", "find-lr", "sweep", "average", "evaluate", "export", "import"),
    "service": ("serve", "mcp"),
    "captions": ("caption", "tune", "calibrate", "name", "alttext", "metadata", "watch", "bulk"),
    "files": ("score", "inspect", "plot", "report", "demo"),
}
PATHLESS = {"models", "completion"}
#: commands that tell of each of their inputs
MANY_INPUTS = ("caption", "metadata")
#: what may well be watched, which does not end by itself
WATCHABLE = {"a folder", "the current folder", "the folder above"}
#: what may well name images, of which those that cannot be read are recorded
LISTABLE = {"a file", "a pipe", "the folder above"}
#: what is changed of it where an output is tried, so that no long work begins
REFUSED_LATER = {
    "watch": {"folder": "missing"},
    **{command: {"data": "missing"} for command in ("train", "find-lr", "sweep", "evaluate", "average")},
    "export": {"--evaluate": "missing"},
}
ORDINARY = [
    "setpriv",
    "--inh-caps=-dac_override,-dac_read_search",
    "--bounding-set=-dac_override,-dac_read_search",
]
_NUMBERS = itertools.count()
_LONGEST = 120  # seconds of a command, after which it hangs, however busy the machine is


def arguments_of(command: str) -> Iterator[tuple[str, argparse.Action]]:
    """Each argument of a command that takes a text, by its flag or its name; numbers and switches are left out."""
    from captionkit.cli.main import _parser

    commands = next(a for a in _parser([command])._actions if isinstance(a, argparse._SubParsersAction)).choices
    texts = _texts_of_the_recipe()
    for action in commands[command]._actions:
        name = action.option_strings[0] if action.option_strings else action.dest
        switch = action.nargs == 0
        number = action.type in (int, float) or ("." in name and name not in texts)
        if not switch and not number:
            yield name, action


def _texts_of_the_recipe() -> set[str]:
    """The flags of the recipe's fields that are texts, or lists, which may be of texts."""
    try:
        from captionkit.training.config.recipe import flag_of, recipe_fields
    except ModuleNotFoundError:
        return set()
    return {flag_of(name) for name, leaf in recipe_fields() if isinstance(leaf.default, (str, tuple))}


def takes(table: dict[str, str], command: str, name: str) -> str | None:
    """How a path given to this argument must end; None where the table does not have it."""
    return table.get(f"{command} {name}", table.get(name))


def test_every_command_and_argument_is_in_the_tables() -> None:
    from captionkit.cli.main import _parser

    commands = next(a for a in _parser([])._actions if isinstance(a, argparse._SubParsersAction)).choices
    assert set(commands) == set(COMMANDS) == set(USUAL)
    assert sorted(commands) == sorted([*PATHLESS, *itertools.chain(*TOGETHER.values())])
    for command in COMMANDS:
        for name, _ in arguments_of(command):
            tables = [takes(INPUTS, command, name), takes(OUTPUTS, command, name)]
            known = [ending for ending in tables if ending is not None]
            assert len(known) + (name in WORDS) == 1, f"{command} {name}: say above what it takes"


@pytest.mark.slow
@pytest.mark.parametrize("together", TOGETHER)
def test_no_path_ends_in_a_traceback_or_harms_a_file(together: str, tmp_path: Path) -> None:
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root passes by all rights, and there is no setpriv")
    places = {command: tmp_path / command for command in TOGETHER[together]}
    cases = []
    for command, place in places.items():
        lay_out(place)
        found = cases_in(place, command)
        assert len(found) >= 13
        cases += found
    program = [*(ORDINARY if os.geteuid() == 0 else []), sys.executable, __file__]
    usual = {"CAPTIONKIT_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    try:
        done = subprocess.run(
            program, input=json.dumps(cases), capture_output=True, text=True, env={**os.environ, **usual}, timeout=900
        )
    finally:
        for place in places.values():
            (place / "closed").chmod(0o700)  # or pytest could not clear it away
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(cases)
    faults = [f"{' '.join(case['argv'])[:200]}: {fault}" for case, fault in zip(cases, told, strict=True) if fault]
    assert not faults, "\n".join(faults)


def lay_out(place: Path) -> None:
    """What is there: good things of each kind, and what bad paths lead to."""
    from PIL import Image

    for folder in ("good", "run", "here", "closed", "folder"):
        (place / folder).mkdir(parents=True)
    for name in ("a", "b", "c", "d"):
        Image.new("RGB", (16, 16), "teal").save(place / "good" / f"{name}.png")
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("abcd")]
    said = [{"image_id": number, "caption": "a teal square"} for number in range(4)]
    (place / "good" / "captions.json").write_text(json.dumps({"images": images, "annotations": said}))
    (place / "results.json").write_text(json.dumps(said))
    rows = [
        {"kind": "train", "step": 1, "epoch": 1.0, "loss": 3.0, "lr_decoder": 1e-3},
        {"kind": "eval", "step": 1, "epoch": 1.0, "val_loss": 2.5, "cider": 0.5, "best": True},
    ]
    (place / "run" / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for folder in ("here", "closed", "folder"):
        (place / folder / "diary.log").write_text("precious")
    (place / "closed").chmod(0)


def cases_in(place: Path, command: str) -> list[dict[str, Any]]:
    """Every command line of a command to try."""
    cases = []
    for name, _ in arguments_of(command):
        for table in (INPUTS, OUTPUTS):
            ending = takes(table, command, name)
            if ending is None:
                continue
            for kind, path in bad_paths(place, ending).items():
                if kind == "empty" and name in MAY_BE_EMPTY:
                    continue
                if table is OUTPUTS and kind == "missing":  # which is where an output may well go
                    continue
                if (name == "folder" and kind in WATCHABLE) or (name == "places" and kind in LISTABLE):
                    continue
                changed = {name: path}
                if table is OUTPUTS:
                    changed |= REFUSED_LATER.get(command, {})
                argv = command_line(place, command, changed)
                cases.append({"argv": argv, "bad": path, "kind": kind, "output": table is OUTPUTS, "place": str(place)})
    return cases


def command_line(place: Path, command: str, changed: dict[str, str]) -> list[str]:
    """A command with its usual arguments, but for those changed."""
    given = {
        name: path if path in ("bundled", "rouge", "shape", ".txt") else str(place / path)
        for name, path in USUAL[command].items()
    }
    given |= {name: str(place / path) if path == "missing" else path for name, path in changed.items()}
    if command == "export" and {"--output", "--evaluate"} & set(given):
        given = {"--output": str(place / "new"), **given}
        flags = ["--int8"]
    else:
        flags = []
    positional = [name for name, _ in arguments_of(command) if not name.startswith("-")]
    words = [given[name] for name in positional if name in given]
    if command == "serve" and "place" in given:  # the earlier spelling of --model
        del given["--model"]
    if command == "average":
        words.insert(0, "bundled")
    if command == "bulk":
        words.append(str(place / f"new{next(_NUMBERS)}"))
    return [command, *words, *flags, *(f"{name}={path}" for name, path in given.items() if name.startswith("-"))]


def bad_paths(place: Path, ending: str) -> dict[str, str]:
    """A path of each bad kind, its name ending so; made where it is not there yet."""
    file, folder, pipe, device, circle = (
        place / f"{name}{ending}" for name in ("file", "full", "pipe", "null", "circle")
    )
    if not file.exists():
        file.write_text("precious")
        folder.mkdir()
        (folder / "diary.log").write_text("precious")
        os.mkfifo(pipe)
        device.symlink_to("/dev/null")
        circle.symlink_to(circle.name)
    return {
        "missing": str(place / f"nowhere/deep{ending}"),
        "in a closed folder": str(place / f"closed/x{ending}"),
        "a closed folder": str(place / "closed"),
        "too long": "photo one, photo two, " * 300 + ending,
        "too long a part": str(place / ("x" * 300 + ending)),
        "empty": "",
        "a device": str(device),
        "a pipe": str(pipe),
        "a folder": str(folder),
        "a file": str(file),
        "below a file": str(file / f"x{ending}"),
        "links in a circle": str(circle),
        "the current folder": ".",
        "the folder above": "..",
    }


def main() -> None:
    """Run the cases that come on standard input; print a line for each: what is wrong with it, or an empty text."""
    cases, answers = json.load(sys.stdin), sys.stdout
    _use_a_sample(Path(cases[0]["place"]))
    signal.signal(signal.SIGALRM, _hangs)
    for case in cases:
        os.chdir(Path(case["place"], "here"))
        print(json.dumps(_fault(case, Path(case["place"]))), file=answers, flush=True)


def _use_a_sample(place: Path) -> None:
    """One small image in the place of the sample photographs."""
    from PIL import Image

    from captionkit.viz import samples

    samples.sample_photos = lambda: [("a.png", Image.open(place / "good" / "a.png"))]


class _Hang(BaseException):
    pass


def _hangs(*_: object) -> None:
    raise _Hang


def _fault(case: dict[str, Any], place: Path) -> str:
    from captionkit.cli.main import main

    before = tree(place)
    said, answered = io.StringIO(), io.StringIO()
    signal.alarm(_LONGEST)
    try:
        with contextlib.redirect_stdout(answered), contextlib.redirect_stderr(said), _reader(case):
            status: object = main(case["argv"])
    except SystemExit as end:
        status = end.code
    except _Hang:
        return f"hangs: {traceback.format_exc()[-1500:]}"
    except BaseException:
        return traceback.format_exc()[-1500:]
    finally:
        signal.alarm(0)
    after = tree(place)
    lost = [name for name, value in before.items() if after.get(name) != value]
    made = sorted(set(after) - set(before))
    for name in made:
        _remove(place / name)
    if lost:
        return f"changed {lost}"
    if not case["output"] and (made or status == 0):
        return f"status {status}, made {made}, said {said.getvalue()[-500:]!r}"
    if status not in (0, 1, 2) or (
        status and case["argv"][0] not in MANY_INPUTS and len(said.getvalue().splitlines()) > 3
    ):
        return f"status {status}, said {said.getvalue()!r}"
    if status and not said.getvalue().strip():
        return "says nothing"
    return ""


@contextlib.contextmanager
def _reader(case: dict[str, Any]) -> Iterator[None]:
    """Somebody who reads what a case writes to a pipe, without whom a writer waits, as it should."""
    if not (case["output"] and case["kind"] == "a pipe"):
        yield
        return
    descriptor, done = os.open(case["bad"], os.O_RDONLY | os.O_NONBLOCK), threading.Event()

    def read() -> None:
        while not done.wait(0.01):
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 1 << 16)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        os.close(descriptor)


def tree(place: Path) -> dict[str, str]:
    """What lies under a folder: of each path its mode, and where a link leads or a hash of what a file holds."""
    found = {}
    for folder, folders, names in os.walk(place):
        for name in [*folders, *names]:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            content = str(path.readlink()) if stat.S_ISLNK(mode) else ""
            if stat.S_ISREG(mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(place))] = f"{mode:o} {content}"
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
