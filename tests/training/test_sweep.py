"""`captionkit sweep`: real runs of a tiny model, that are stopped, killed, fail, and share the work."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")
pytest.importorskip("optuna", reason="the extra `train` is not installed")

from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from captionkit.cli import main as cli
from captionkit.errors import RecipeError, TrainingError
from captionkit.training.config.recipe import Recipe, load_recipe
from captionkit.training.tools.search_space import ByOptimizer, default_space, read_space, to_toml
from captionkit.training.tools.sweep import sweep
from captionkit.training.tools.sweep_study import JOURNAL, ActiveTrial, Study
from captionkit.training.train_step import TrainStep
from shapes import make_recipe

SPACE = """
[optimizer]
name = ["adamw", "sgd"]
weight_decay = { low = 0.001, high = 0.1, log = true }
warmup = { low = 0, high = 4 }
[optimizer.lr_decoder]
adamw = { low = 1e-3, high = 1e-2, log = true }
sgd = { low = 1e-2, high = 1.0, log = true }
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.toml"
    path.write_text(SPACE, encoding="utf-8")
    return path


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in Study(folder, Recipe(), {}).trials(*TrialState)]


def fields(folder: Path) -> list[dict]:
    return [trial.user_attrs["fields"] for trial in Study(folder, Recipe(), {}).ended()]


@pytest.mark.slow
def test_a_sweep_makes_runs_and_a_report_and_goes_on_where_it_was(
    data: Path, backbone: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = make_recipe(backbone), tmp_path / "sweep"
    sweep(data, folder, recipe, space=space, trials=2)
    assert states(folder) == ["COMPLETE", "COMPLETE"]
    sweep(data, folder, recipe, space=space, trials=3)
    assert states(folder)[:2] == ["COMPLETE", "COMPLETE"] and len(states(folder)) == 3
    chosen = fields(folder)
    assert [some["optimizer.name"] for some in chosen[:2]] == ["adamw", "sgd"]  # each is tried

    for number, some in enumerate(chosen):
        run = folder / "trials" / f"{number:04d}"
        recipe_of = load_recipe(str(run / "recipe.toml"))
        assert all(recipe_of.value(name) == value for name, value in some.items())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["kind"] == "eval" and rows[-1]["step"] == 6
        assert not (run / "last.safetensors").exists()
    kept = [run.name for run in sorted((folder / "trials").iterdir()) if (run / "best").exists()]
    study = Study(folder, Recipe(), {})
    best = study.best()
    assert kept == [f"{best.number:04d}"] and best.value == max(trial.value for trial in study.ended())
    assert load_recipe(str(folder / "best.toml")) == load_recipe(str(folder / "trials" / kept[0] / "recipe.toml"))

    page, text = ((folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    command = f"captionkit train {data} --recipe {folder / 'best.toml'} --output RUN"
    for report in (page, text):
        assert command in report and "://" not in report
        assert all(f"{number:04d}" in report for number in range(3))
    assert page.count("<img") == 1 and "data:image/svg+xml;base64," in page and "<script" not in page
    said = capsys.readouterr().err
    assert f"the best is trial {best.number} with {best.value:.3f}, whose model is kept" in said

    # another session makes the trials that an uninterrupted one would have made
    sweep(data, tmp_path / "alone", recipe, space=space, trials=3)
    assert fields(tmp_path / "alone") == chosen
    with pytest.raises(TrainingError, match=r"another recipe.trainer.epochs \(2 there, 3 here\)"):
        sweep(data, folder, make_recipe(backbone, {"trainer.epochs": 3}), space=space, trials=5)


@pytest.mark.slow
def test_a_trial_that_fails_does_not_end_the_sweep(
    data: Path, backbone: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainStep.step

    def fails_with_sgd(self: TrainStep, number: int, images):
        if self.recipe.optimizer.name == "sgd":
            return None  # as where the loss is not finite
        return original(self, number, images)

    monkeypatch.setattr(TrainStep, "step", fails_with_sgd)
    sweep(data, tmp_path / "sweep", make_recipe(backbone), space=space, trials=2)
    assert states(tmp_path / "sweep") == ["COMPLETE", "FAIL"]
    assert "0001: the loss of step 1 is not finite\n" in (tmp_path / "sweep" / "report.md").read_text()


@pytest.mark.slow
def test_a_sweep_of_failures_gives_up(
    data: Path, backbone: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel\nsecond line")

    monkeypatch.setattr(TrainStep, "step", broken)
    with pytest.raises(TrainingError, match=r"first 3 trials all failed, .* RuntimeError: no such kernel;"):
        sweep(data, tmp_path / "sweep", make_recipe(backbone), space=space, trials=9)
    assert states(tmp_path / "sweep") == ["FAIL"] * 3


@pytest.mark.slow
def test_what_is_worse_than_most_is_ended_early(
    data: Path, backbone: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # two evaluations of four trials, and of one that falls behind at its end; the first of one that does so before
    scores = iter([*[0.5, 0.6] * 4, 0.5, 0.4, 0.1, 0.9])
    monkeypatch.setattr(
        "captionkit.training.validation.Validator.scores", lambda *_: {"cider": next(scores), "bleu4": 0.0}
    )
    sweep(data, tmp_path / "sweep", make_recipe(backbone), space=space, trials=6)
    assert states(tmp_path / "sweep") == ["COMPLETE"] * 5 + ["PRUNED"]
    assert next(scores) == 0.9  # it was not evaluated again
    assert "| ended early | 0.100 |" in (tmp_path / "sweep" / "report.md").read_text()


@pytest.mark.slow
def test_an_interrupted_trial_is_taken_up_and_ends_with_the_same_scores(
    data: Path, backbone: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    recipe, folder = make_recipe(backbone), tmp_path / "sweep"
    original = TrainStep.step

    def interrupted(self: TrainStep, number: int, images):
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, number, images)

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(data, folder, recipe, space=space, trials=1)
    assert states(folder)[0] == "RUNNING"
    assert f"the same command goes on with the sweep in {folder}" in capfd.readouterr().err
    sweep(data, folder, recipe, space=space, trials=1)
    assert "resumed after step 4 of 6" in capfd.readouterr().err
    sweep(data, tmp_path / "alone", recipe, space=space, trials=1)
    ours, theirs = (Study(some, Recipe(), {}).best() for some in (folder, tmp_path / "alone"))
    assert (ours.number, ours.value, ours.intermediate_values) == (0, theirs.value, theirs.intermediate_values)


@pytest.mark.slow
def test_a_trial_that_kills_its_process_again_and_again_counts_as_failed(
    data: Path, backbone: Path, space: Path, tmp_path: Path
) -> None:
    recipe, folder = make_recipe(backbone), tmp_path / "sweep"
    sweep(data, folder, recipe, space=space, trials=1)
    searched = read_space(space, recipe, ())
    for _ in range(3):  # taken, and let go of without a word, as by a process that is killed
        trial = Study(folder, recipe, searched).take(2)
        assert trial.number == 1
        trial._lock.release()
    assert Study(folder, recipe, searched).take(2) is None
    assert states(folder) == ["COMPLETE", "FAIL"]


def test_a_journal_that_a_full_disk_cut_is_mended_and_a_damaged_one_refused(
    data: Path, backbone: Path, space: Path, tmp_path: Path
) -> None:
    recipe, folder = make_recipe(backbone), tmp_path / "sweep"
    sweep(data, folder, recipe, space=space, trials=1)
    whole = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).write_bytes(whole + b'{"op_code": 5, "tri')
    assert Study(folder, recipe, {}).best().number == 0
    assert (folder / JOURNAL).read_bytes() == whole
    (folder / JOURNAL).write_bytes(b"no journal\n" + whole)
    with pytest.raises(TrainingError, match=r"journal\.jsonl: damaged \(.*\); move .*sweep away"):
        Study(folder, recipe, {})


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_trial_is_not_lost(
    data: Path, backbone: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder, recipe = tmp_path / "sweep", make_recipe(backbone)
    with monkeypatch.context() as patched:
        patched.setattr(JournalFileBackend, "append_logs", full)
        with pytest.raises(TrainingError, match=r"cannot be written \(No space left on device\)"):
            sweep(data, folder, recipe, space=space, trials=1)
    with monkeypatch.context() as patched:
        patched.setattr(ActiveTrial, "end", full)
        with pytest.raises(TrainingError, match=r"No space left on device\); free space, and the same command goes on"):
            sweep(data, folder, recipe, space=space, trials=1)
    assert states(folder)[0] == "RUNNING"
    sweep(data, folder, recipe, space=space, trials=1)
    assert states(folder)[0] == "COMPLETE"


def test_after_the_timeout_no_trial_is_begun(data: Path, backbone: Path, space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with pytest.raises(TrainingError, match="no trial was completed"):
        sweep(data, folder, make_recipe(backbone), space=space, trials=3, minutes=0)
    assert not (folder / "trials").exists() and "Trials: 0." in (folder / "report.md").read_text()
    assert (folder / "space.toml").read_text() == to_toml(read_space(space, make_recipe(backbone), ()))


def test_folders_of_other_things_are_left_alone(data: Path, backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name, message in (("mine", "holds something other than a sweep"), ("file", "is a file")):
        with pytest.raises(TrainingError, match=message):
            sweep(data, tmp_path / name, make_recipe(backbone), space=None, trials=1)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def flags_of(recipe: Recipe) -> list[str]:
    """Its flags, without those of fields that SPACE searches."""
    flags = recipe.to_flags()
    pairs = zip(flags[::2], flags[1::2], strict=True)
    searched = ("--optimizer.name", "--optimizer.weight-decay", "--optimizer.warmup", "--optimizer.lr-decoder")
    return [word for pair in pairs for word in pair if pair[0] not in searched]


def begin(command: Sequence[object], log: Path) -> subprocess.Popen:
    """The command line in a process that may have others, and leads their group as in a terminal."""
    arguments = [sys.executable, "-m", "captionkit", *map(str, command)]
    with log.open("wb") as file:
        return subprocess.Popen(arguments, stderr=file, start_new_session=True)


def wait_for_checkpoints(folder: Path, count: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        if len(list(folder.glob("trials/*/last.safetensors"))) >= count:
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_two_workers_share_the_trials_and_lose_none_to_an_interrupt_or_a_kill(
    data: Path, backbone: Path, space: Path, tmp_path: Path
) -> None:
    folder, log = tmp_path / "sweep", tmp_path / "log"
    recipe = make_recipe(backbone, {"trainer.epochs": 12, "trainer.eval_every": 2, "trainer.checkpoint_every": 0})
    command = ["sweep", data, "--output", folder, "--space", space, "--trials", 3, "--workers", 2, *flags_of(recipe)]
    process = begin(command, log)
    wait_for_checkpoints(folder, 2, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(120) == 130
    said = log.read_text()
    assert said.endswith("captionkit: interrupted\n") and "Traceback" not in said
    assert states(folder) == ["RUNNING", "RUNNING"]

    process = begin(command, log)
    logs = [folder / f"worker-{number}.log" for number in (1, 2)]
    while process.poll() is None and not all("resumed after step" in some.read_text() for some in logs):
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2, log.read_text()
    os.kill(workers[0], signal.SIGKILL)
    assert process.wait(300) == 0, log.read_text()
    assert states(folder) == ["COMPLETE"] * 3
    said = log.read_text()
    assert said.count("the best is trial") == 3 and "1 of the 2 processes failed (-9); the others went on" in said


# --- what is searched ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "names no field"),
        ("[optimizer", "not TOML"),
        ("epochs = [1]", "epochs is not a field of the recipe; did you mean 'trainer.epochs'"),
        ("[optimizer]\nlr_decodr = [1]", "optimizer.lr_decodr is not a field.*did you mean 'optimizer.lr_decoder'"),
        ("[optimizer]\nname = ['adamw', 'adamx']", "optimizer.name = 'adamx': .*should be 'adamw'"),
        ("[optimizer]\nname = []", "optimizer.name: choices are a list"),
        ("[optimizer]\nname = {low = 1, high = 2}", "optimizer.name: is no number"),
        ("[optimizer]\nclip = 1.0", "trainer.max_grad_norm: a range goes from low to high"),
        ("[optimizer]\nclip = {low = 1.0}", "trainer.max_grad_norm: a range goes from low to high"),
        ("[optimizer]\nclip = {low = 1, high = 2, base = 2}", "trainer.max_grad_norm: a range goes from low to high"),
        ("[optimizer]\nclip = {low = 2.0, high = 1.0}", "low = 2.0 is not below high = 1.0"),
        ("[optimizer]\nclip = {low = '1', high = 2}", "low, high and step are numbers"),
        ("[optimizer]\nclip = {low = 0.1, high = 2, log = 1}", "log is true or false"),
        ("[optimizer]\nweight_decay = {low = 0, high = 1, log = true}", "low = 0 has no logarithm"),
        ("[optimizer]\nclip = {low = 1, high = 2, step = 3}", "step = 3 goes without log"),
        ("[optimizer]\nclip = {low = -1.0, high = 2.0}", "trainer.max_grad_norm = -1.0: .*greater than 0"),
        ("[optimizer]\nwarmup = {low = 0.5, high = 2}", "low, high and step are whole numbers"),
        ("[optimizer]\nlr_decoder = {sgd = {low = 0.1, high = 1}}", "ranges for sgd, but the optimizers are adamw"),
        ("[decoder]\nlayers = [1, 2]", "decoder.layers = 1: the decoder is show-attend-tell"),
        ("[run]\neval_every = [0.5, 1.0]", "trainer.eval_every cannot be searched"),
        ("[data]\nval_pictures = [10, 20]", "data.val_images cannot be searched"),
    ],
)
def test_mistakes_in_a_space_are_one_line_with_file_and_field(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=message) as caught:
        read_space(path, Recipe(), ())
    assert "mine.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_field_cannot_be_given_and_searched(space: Path) -> None:
    with pytest.raises(RecipeError, match=r"optimizer\.warmup is searched, but a flag gives it too"):
        read_space(space, Recipe(), ("optimizer.warmup",))
    with pytest.raises(RecipeError, match=r"none\.toml: cannot be read"):
        read_space(space.with_name("none.toml"), Recipe(), ())


def test_the_usual_space_goes_round_through_its_file_and_leaves_out_what_is_given(tmp_path: Path) -> None:
    trained = load_recipe(None, {"encoder.train": "all"})
    usual = default_space(trained, 1000, ())
    path = tmp_path / "usual.toml"
    path.write_text(to_toml(usual), encoding="utf-8")
    assert read_space(path, trained, ()) == usual
    assert usual["optimizer.warmup"] == IntDistribution(0, 200) and "optimizer.lr_encoder" in usual
    some = default_space(load_recipe(None, {"optimizer.name": "lion"}), 5, ("optimizer.name", "decoder.dropout"))
    assert not {"optimizer.name", "decoder.dropout", "optimizer.lr_encoder"} & some.keys()
    rates = some["optimizer.lr_decoder"]
    assert isinstance(rates, ByOptimizer) and set(rates.ranges) == {"lion"} and rates.at(0.5, "lion") == 2e-4
    assert isinstance(usual["optimizer.schedule"], CategoricalDistribution)


def test_one_line_for_each_mistake_on_the_command_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = {
        ("sweep", tmp_path / "nowhere", "--output", "out"): "nowhere",
        ("sweep", data, "--output", "out", "--trials", "0"): "--trials 0 --workers 1: both are 1 or more",
        ("sweep", data, "--output", "out", "--space", "none.toml"): "none.toml: cannot be read",
    }
    for arguments, message in cases.items():
        assert cli.main([str(argument) for argument in arguments]) == 1
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    assert not list(tmp_path.glob("out*"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["sweep", str(data), "--output", "out"]) == 1
    assert "runs in one process" in capsys.readouterr().err


def test_without_optuna_the_command_says_what_to_install(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("optuna", "captionkit.training.tools"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert cli.main(["sweep", str(data), "--output", str(tmp_path / "out")]) == 1
    assert "run `pip install 'captionkit[train]'" in capsys.readouterr().err
