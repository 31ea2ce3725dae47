"""What may befall a run: full disks, lost devices, images that vanish, two runs in one folder, signals, damage.

Each ends in one line that says what to do, and the run that goes on ends with the weights of one left alone.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from captionkit.data.run_files import BEST, CURVES, LAST, METRICS, RECIPE, SAMPLES
from captionkit.errors import CaptionkitError, TrainingError
from captionkit.inference import model_folder
from captionkit.inference.model_folder import CARD, WEIGHTS, open_model, update_model
from captionkit.training import train_step
from captionkit.training.config.recipe import Recipe
from captionkit.training.data import dataset
from captionkit.training.engine.signals import deferred_interrupts
from captionkit.training.report.run_data import RunData
from captionkit.training.run.run_dir import RunFolder
from captionkit.training.train_step import TrainStep
from captionkit.training.trainer import train
from captionkit.utils import atomic_write
from kept import step_of
from sessions import launch, start
from shapes import make_recipe
from tiers import slow

#: the encoder is trained, so images are read in every epoch
WHOLE = {"encoder.train": "all", "trainer.epochs": 4, "trainer.patience": 0}


pytestmark = pytest.mark.usefixtures("alone")


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, averages and optimizer, the kept model, and what was recorded of the evaluations."""
    left, right = load_file(one / LAST), load_file(other / LAST)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert (one / BEST / WEIGHTS).read_bytes() == (other / BEST / WEIGHTS).read_bytes()
    assert evaluations(one) == evaluations(other)


def evaluations(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["kind"] == "eval"]


def spoilt(at: int, error: BaseException):
    """`losses` that fails in the step numbered `at` (from 1)."""
    calls, original = iter(range(1, 10_000)), train_step.losses

    def fails(*args: object):
        if next(calls) == at:
            raise error
        return original(*args)

    return fails


def broken_off(data: Path, run: Path, recipe: Recipe, at: int, error: BaseException, match: str | None = None) -> str:
    """Train until `error` is raised in step `at` (from 1); returns what comes of it, which matches `match`."""
    expected = TrainingError if match else type(error)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train_step, "losses", spoilt(at, error))
        with pytest.raises(expected, match=match) as caught:
            train(data, run, recipe)
    return one_line(caught)


# --- two runs in one folder ---


def test_a_run_that_began_and_ended_between_look_and_lock_is_seen(backbone: Path, tmp_path: Path) -> None:
    late, early = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    late.check_new()
    early.open(make_recipe(backbone), resume=False)
    early.close()
    before = (tmp_path / "run" / RECIPE).read_bytes()
    with pytest.raises(TrainingError, match="holds a run already; continue it with --resume"):
        late.open(make_recipe(backbone, {"trainer.seed": 9}), resume=False)
    late.close()
    assert (tmp_path / "run" / RECIPE).read_bytes() == before
    RunFolder(tmp_path / "run").open(make_recipe(backbone), resume=True)  # the lock is free


def test_a_runs_model_is_not_looked_for_on_the_hub(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though `run/best`, before the first evaluation, has the form of a Hub id."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_folder, "_from_hub", pytest.fail)
    folder = RunFolder(Path("run"))
    folder.open(make_recipe(backbone), resume=False)
    folder.close()
    assert RunData(Path("run"), make_recipe(backbone), [], []).kept is None


@pytest.mark.slow
def test_of_two_runs_started_together_one_trains(data: Path, backbone: Path, tmp_path: Path) -> None:
    flags = make_recipe(backbone, {"trainer.epochs": 10, "trainer.patience": 0}).to_flags()
    logs = [tmp_path / "log0", tmp_path / "log1"]
    both = [start(["train", data, "--output", tmp_path / "run", *flags], log) for log in logs]
    for process in both:
        process.join(240)
    said = [log.read_text() for log in logs]
    assert sorted(process.exitcode for process in both) == [0, 1], said
    (refused,) = (text for text, process in zip(said, both, strict=True) if process.exitcode)
    assert "another process is training here" in refused or "holds a run already" in refused
    assert "Traceback" not in refused and step_of(tmp_path / "run") == 30


@pytest.mark.slow
def test_nothing_of_the_users_is_written_over_or_removed(data: Path, backbone: Path, tmp_path: Path) -> None:
    recipe = make_recipe(backbone, {"trainer.eval_every": 1, "trainer.epochs": 3})
    for name in (BEST, CURVES):
        (tmp_path / "other" / name).mkdir(parents=True)
        with pytest.raises(TrainingError, match=rf"holds {name}, which a new run would replace; .*--output"):
            train(data, tmp_path / "other", recipe)
        (tmp_path / "other" / name).rmdir()
    mine = [tmp_path / "run" / name for name in ("notes.txt", ".mine.partial", "folder/.last.abc.partial")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)

    broken_off(data, tmp_path / "run", recipe, 5, KeyboardInterrupt())
    mine += [tmp_path / "run" / BEST / "why.txt", tmp_path / "run" / BEST / "drawings" / "one.txt"]
    mine[-1].parent.mkdir()
    for path in mine[-2:]:
        path.write_text(path.name)
    update_model(open_model(tmp_path / "run" / BEST), {CARD: b"a better one"})
    train(data, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / BEST / CARD).read_bytes() == b"a better one"
    assert all(path.read_text() == path.name for path in mine)


# --- full disks ---


@pytest.mark.parametrize("what", [LAST, *slow(BEST, WEIGHTS, SAMPLES, CURVES, METRICS)])
def test_a_disk_that_fills_anywhere_loses_nothing(
    data: Path, backbone: Path, tmp_path: Path, uninterrupted: Callable, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)  # METEOR in a report takes longer than the training
    recipe = make_recipe(backbone, {"trainer.epochs": 3, "trainer.report": what == CURVES})
    writes = iter(range(what in (BEST, WEIGHTS), 100))

    def full(original):
        def write(*args: object, prefix: str = "", **options: object):
            if prefix == f".{what}." and next(writes):  # the best model at once, the rest the second time
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, prefix=prefix, **options)

        return write

    with monkeypatch.context() as patched:
        patched.setattr(atomic_write.tempfile, "mkstemp", full(atomic_write.tempfile.mkstemp))
        patched.setattr(atomic_write.tempfile, "mkdtemp", full(atomic_write.tempfile.mkdtemp))
        if what == METRICS:
            patched.setattr(RunFolder, "truncate", full_rows(RunFolder.truncate, patched))
        with pytest.raises(CaptionkitError, match=r"No space left on device.*free space") as caught:
            train(data, tmp_path / "run", recipe)
    assert "--resume" in one_line(caught)
    assert not list((tmp_path / "run").rglob("*.partial"))
    train(data, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", uninterrupted(recipe))


def full_rows(original, patched: pytest.MonkeyPatch):
    """From the run's beginning on, metrics.jsonl takes one row, and half of the next."""

    def truncate(self: RunFolder, step: int) -> None:
        original(self, step)
        usual = Path.open

        def opened(path: Path, *args: object, **options: object):
            if path.name == METRICS and path.stat().st_size:
                with usual(path, "a") as file:
                    file.write('{"kind": "eval", "st')
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return usual(path, *args, **options)

        patched.setattr(Path, "open", opened)

    return truncate


@pytest.mark.slow
def test_tensorboards_thread_does_not_cry_over_a_full_disk(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*--resume"):
        train(data, tmp_path / "run", make_recipe(backbone))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_features_that_do_not_fit_leave_nothing_behind(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: full() if os.fstat(handle).st_size > 4000 else None)
        with pytest.raises(TrainingError, match=r"No space left on device.*CAPTIONKIT_CACHE") as caught:
            train(data, tmp_path / "run", make_recipe(backbone))
    one_line(caught)
    with monkeypatch.context() as patched:
        patched.setattr(atomic_write.tempfile, "mkstemp", lambda **_: full())
        patched.setattr(RunFolder, "open", lambda *_, **__: None)
        with pytest.raises(CaptionkitError, match=r"broken\.json.*No space left on device"):
            train(data, tmp_path / "run2", make_recipe(backbone))
    assert not list((tmp_path / "cache").rglob("*.partial"))
    assert train(data, tmp_path / "run", resume=True).steps == 6


@pytest.mark.slow
def test_damaged_features_are_made_anew(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(backbone)
    train(data, tmp_path / "whole", recipe)
    for number, path in enumerate(sorted((tmp_path / "cache" / "features").glob("*.npy"))):
        path.write_bytes(path.read_bytes()[: 700 * number])
        path.with_suffix(".broken.json").write_text("{" * number)
    train(data, tmp_path / "run", recipe)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# --- devices ---


ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported\n"


@pytest.mark.parametrize(
    ("every", "kept"), [(0, "after step 4"), *slow((3600, "after step 3"))], ids=["each step", "evaluations"]
)
def test_a_lost_device_is_told_and_nothing_of_it_is_saved(
    data: Path, backbone: Path, tmp_path: Path, uninterrupted: Callable, every: int, kept: str
) -> None:
    recipe = make_recipe(backbone, {"trainer.checkpoint_every": every})
    kind = getattr(torch, "AcceleratorError", RuntimeError)
    what = rf"the device failed \(CUDA error: .*triggered\) after step 4; .*{kept}"
    broken_off(data, tmp_path / "run", recipe, 5, kind(ASSERT), what)
    assert step_of(tmp_path / "run") == int(kept[-1])
    train(data, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", uninterrupted(recipe))


def test_a_mistake_in_the_program_is_not_blamed_on_the_device(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_step, "losses", spoilt(2, RuntimeError("shapes cannot be multiplied; connection closed")))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(data, tmp_path / "run", make_recipe(backbone))


@pytest.mark.slow
def test_what_a_thread_raises_comes_out_and_the_lock_is_given_back(
    data: Path, backbone: Path, tmp_path: Path, uninterrupted: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(backbone, {**WHOLE, "data.num_workers": 2, "trainer.checkpoint_every": 0})
    calls, original = iter(range(10_000)), dataset.load_image

    def fails(*args: object, **options: object):
        if next(calls) == 40:
            raise ZeroDivisionError
        return original(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(dataset, "load_image", fails)
        with pytest.raises(ZeroDivisionError):
            train(data, tmp_path / "run", recipe)
    train(data, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", uninterrupted(recipe))


# --- images that vanish ---


def vanishing(at: int, root: Path):
    """`load_image`, at whose `at`th call the disk with the images goes away."""
    calls, original = iter(range(10_000)), dataset.load_image

    def load(*args: object, **options: object):
        if next(calls) == at:
            root.rename(root.with_name("elsewhere"))
        return original(*args, **options)

    return load


@pytest.mark.parametrize(
    ("workers", "at"),  # in the middle of a step; in the first step; in an evaluation
    [(0, 29), *slow((2, 29), (0, 2), (2, 34))],
)
def test_a_disk_that_goes_away_ends_the_run_as_it_was_before(
    data: Path,
    backbone: Path,
    tmp_path: Path,
    uninterrupted: Callable,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    at: int,
) -> None:
    root = Path(shutil.copytree(data, tmp_path / "pictures"))
    recipe = make_recipe(backbone, {**WHOLE, "trainer.checkpoint_every": 0, "data.num_workers": workers})
    with monkeypatch.context() as patched:
        patched.setattr(dataset, "load_image", vanishing(at, root))
        with pytest.raises(TrainingError, match=r"read before cannot be read any more \(.*--resume") as caught:
            train(root, tmp_path / "run", recipe)
    kept = step_of(tmp_path / "run") if (tmp_path / "run" / LAST).exists() else 0
    assert f"to go on after step {kept}: " in one_line(caught)
    (tmp_path / "elsewhere").rename(root)
    train(root, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", uninterrupted(recipe))


@pytest.mark.slow
def test_a_run_taken_up_without_its_pictures_changes_nothing(
    data: Path, backbone: Path, tmp_path: Path, uninterrupted: Callable
) -> None:
    root = Path(shutil.copytree(data, tmp_path / "pictures"))
    recipe = make_recipe(backbone, {**WHOLE, "trainer.checkpoint_every": 0})
    broken_off(root, tmp_path / "run", recipe, 5, KeyboardInterrupt())
    before = (tmp_path / "run" / LAST).read_bytes()
    shutil.copytree(root, tmp_path / "aside")
    for path in root.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"none of the .*images can be read"):
        train(root, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / LAST).read_bytes() == before
    shutil.copytree(tmp_path / "aside", root, dirs_exist_ok=True)
    train(root, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", uninterrupted(recipe))


@pytest.mark.parametrize("how", [Path.unlink, *slow(lambda path: path.write_bytes(path.read_bytes()[:70]))])
def test_one_picture_that_goes_bad_is_left_out_and_named(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how
) -> None:
    root = Path(shutil.copytree(data, tmp_path / "pictures"))
    original = TrainStep.step

    def step(self: TrainStep, number: int, images):
        if number == 6:  # the third epoch begins
            how(root / "red-square.png")
        return original(self, number, images)

    monkeypatch.setattr(TrainStep, "step", step)
    recipe = make_recipe(
        backbone, {**WHOLE, "trainer.checkpoint_every": 0, "data.num_workers": 0}
    )  # nothing is read ahead
    assert train(root, tmp_path / "run", recipe).steps == 12
    left_out = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert len(left_out) == 1 and "red-square.png" in left_out[0] and step_of(tmp_path / "run") == 12


# --- signals ---


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that hang up")
def test_the_end_of_the_terminal_saves_the_step(
    data: Path, backbone: Path, tmp_path: Path, uninterrupted: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, original = make_recipe(backbone, {"trainer.checkpoint_every": 3600}), TrainStep.step

    def hung_up(self: TrainStep, number: int, images):
        if number == 4:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)  # from the system, and from the shell
        return original(self, number, images)

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "step", hung_up)
        patched.setattr("captionkit.utils.console.print_message", lambda _: os.write(-1, b""))  # nobody reads it
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "run", recipe)
    assert step_of(tmp_path / "run") == 5
    train(data, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", uninterrupted(recipe))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that hang up")
def test_nohup_is_respected_and_a_launcher_may_repeat_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with deferred_interrupts() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupted()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        monkeypatch.setenv("WORLD_SIZE", "2")
        with deferred_interrupts() as interrupted:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
            assert interrupted()
    finally:
        signal.signal(signal.SIGHUP, usual)


#: sends interrupts by the thousand for two seconds
FLOOD = """
import os, signal, sys, time
end = time.monotonic() + 2
while time.monotonic() < end:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(int(sys.argv[1]), number)
"""
#: takes them between two steps
FLOODED = """
import os, subprocess, sys
from captionkit.training.engine.signals import deferred_interrupts
with deferred_interrupts() as interrupted:
    flood = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], start_new_session=True)
    while flood.poll() is None:
        interrupted()
print(interrupted())
"""


@pytest.mark.slow
def test_interrupts_that_interrupt_one_another_block_nothing() -> None:
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "1"}
    command = [sys.executable, "-c", FLOODED, FLOOD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr


# --- damage between two sessions ---


@pytest.fixture
def stopped(data: Path, backbone: Path, tmp_path: Path) -> Path:
    """A run of 9 steps that was stopped after 5, and evaluated once."""
    recipe = make_recipe(backbone, {"trainer.epochs": 3, "trainer.checkpoint_every": 0})
    broken_off(data, tmp_path / "run", recipe, 6, KeyboardInterrupt())
    return tmp_path / "run"


@pytest.mark.slow
def test_a_best_model_that_was_taken_away_is_made_anew(
    data: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(stopped / BEST)
    train(data, stopped, resume=True)
    assert "best: missing; the next evaluation writes it again" in capsys.readouterr().err
    assert (stopped / BEST / WEIGHTS).exists()
    shutil.rmtree(stopped / BEST)
    with pytest.raises(TrainingError, match="best: missing, and no step is left") as caught:
        train(data, stopped, resume=True)
    one_line(caught)


def test_a_kill_between_two_renames_is_mended(data: Path, stopped: Path) -> None:
    before = (stopped / BEST / WEIGHTS).read_bytes()
    (stopped / BEST).rename(stopped / ".best.old")
    folder = RunFolder(stopped)
    folder.open(folder.recipe(), resume=True)
    folder.close()
    assert (stopped / BEST / WEIGHTS).read_bytes() == before


def test_rows_that_are_damaged_are_dropped(data: Path, stopped: Path) -> None:
    whole = (stopped / METRICS).read_bytes()
    (stopped / METRICS).write_bytes(b"\xff\xfe\n" + whole + b'7\n{"step": "x"}\n{"kind": "eval"}\n{"kind": "ev')
    train(data, stopped, resume=True)
    assert (stopped / METRICS).read_bytes().startswith(whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        *slow(
            ("not toml [", r"recipe\.toml: not TOML"),
            ("[optimizer]\nepoch = 3", r"recipe\.toml: optimizer\.epoch is not a field.*'trainer\.epochs'"),
        ),
        ("[optimizer]\nepochs = 3", r"last\.safetensors: made with another recipe, dataset or captionkit"),
    ],
)
def test_a_recipe_that_was_changed_is_refused(data: Path, stopped: Path, changed: str, message: str) -> None:
    before = (stopped / LAST).read_bytes()
    (stopped / RECIPE).write_text(changed)
    with pytest.raises(CaptionkitError, match=message) as caught:
        train(data, stopped, resume=True)
    one_line(caught)
    assert (stopped / LAST).read_bytes() == before and (stopped / RECIPE).read_text() == changed


@pytest.mark.parametrize("damage", ["progress", *slow("tensor")])
def test_a_checkpoint_of_another_version_is_refused(data: Path, stopped: Path, damage: str) -> None:
    with safe_open(stopped / LAST, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(stopped / LAST)
    if damage == "progress":
        metadata["progress"] = json.dumps({**json.loads(metadata["progress"]), "new": 1})
    else:
        tensors["model/decoder.new"] = tensors.pop("model/decoder.output.bias")
    save_file(tensors, stopped / LAST, metadata)
    with pytest.raises(
        TrainingError, match=r"last\.safetensors: made with another captionkit \(.*resume with"
    ) as caught:
        train(data, stopped, resume=True)
    one_line(caught)


@pytest.mark.slow
def test_a_folder_with_blanks_and_letters_of_the_world(
    data: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    from captionkit.cli import main as cli

    run = tmp_path / "mein Lauf – 実験 'eins'"
    said = broken_off(data, run, make_recipe(backbone), 5, RuntimeError(ASSERT), "the device failed")
    command = shlex.split(said.partition("to go on after step 3: ")[2])
    assert cli.main(command[1:]) == 0 and step_of(run) == 6


# --- several processes ---

#: nothing that is random, so that any number of processes trains the same
PLAIN = {"decoder.dropout": 0, "decoder.feature_dropout": 0, "trainer.batch_size": 5, "trainer.patience": 0}


def wait_for(run: Path, step: int) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end and not ((run / LAST).exists() and step_of(run) >= step):
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_two_processes_that_are_stopped_go_on_in_any_number(
    data: Path, backbone: Path, tmp_path: Path, processes: int
) -> None:
    recipe = make_recipe(
        backbone, {**PLAIN, "trainer.epochs": 30, "trainer.checkpoint_every": 0, "trainer.eval_every": 10}
    )
    train(data, tmp_path / "whole", recipe)
    arguments = ["train", data, "--output", tmp_path / "run"]
    both = launch(2, [*arguments, *recipe.to_flags()], tmp_path / "logs")
    wait_for(tmp_path / "run", 20)
    for number in (signal.SIGINT, signal.SIGTERM):  # from the terminal, then from the launcher
        for process in both:
            os.kill(process.pid, number)
    for process in both:
        process.join(120)
    logged, silent = ((tmp_path / "logs" / f"log{rank}").read_text() for rank in range(2))
    step = step_of(tmp_path / "run")
    assert [process.exitcode for process in both] == [130, 130] and 20 <= step < 90, logged + silent
    assert f"stopped after step {step}; to go on: " in logged and "Traceback" not in logged + silent
    assert silent.splitlines() == ["captionkit: interrupted"]
    others = launch(processes, [*arguments, "--resume"], tmp_path / "logs")
    for process in others:
        process.join(240)
    assert [process.exitcode for process in others] == [0] * processes, (tmp_path / "logs" / "log0").read_text()
    ours, theirs = (load_file(tmp_path / run / LAST) for run in ("whole", "run"))
    assert max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours) < 1e-4
    ours, theirs = (evaluations(tmp_path / run) for run in ("whole", "run"))
    for name in ("step", "val_loss", "cider"):
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_at_once(data: Path, backbone: Path, tmp_path: Path, killed: int) -> None:
    recipe = make_recipe(backbone, {**PLAIN, "trainer.epochs": 1000, "trainer.checkpoint_every": 0})
    arguments = ["train", data, "--output", tmp_path / "run"]
    both = launch(2, [*arguments, *recipe.to_flags(), "--trainer.eval-every", "500"], tmp_path / "logs")
    wait_for(tmp_path / "run", 5)
    both[killed].kill()
    both[1 - killed].join(60)
    said = (tmp_path / "logs" / f"log{1 - killed}").read_text()
    assert both[1 - killed].exitcode == 1, said
    assert said.splitlines()[-1].startswith("captionkit: another process of this run is gone or out of reach (")
    assert "Traceback" not in said and "--resume" in said
    step = step_of(tmp_path / "run")
    again = launch(2, [*arguments, "--resume"], tmp_path / "logs")
    wait_for(tmp_path / "run", step + 3)
    for process in again:
        process.kill()
    assert f"resumed after step {step} of" in (tmp_path / "logs" / "log0").read_text()
