"""A run that is killed, and killed again, ends with the weights of one that was left alone, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")


from safetensors.torch import load_file, save_file

from captionkit.data.run_files import BEST, LAST, METRICS
from captionkit.training import trainer
from captionkit.training.run.checkpoint import load_checkpoint, save_checkpoint
from captionkit.training.run.progress import Progress
from captionkit.training.train_step import TrainStep
from captionkit.training.trainer import train
from kept import same_tensors, step_of
from sessions import start
from shapes import VARIED, make_halves, make_recipe
from tiers import slow

STEPS = 48


pytestmark = pytest.mark.usefixtures("alone")


def wait_for(run: Path, step: int, process: BaseProcess) -> None:
    end = time.monotonic() + 300
    while step_of(run) < step and process.is_alive() and time.monotonic() < end:
        time.sleep(0.002)


def evaluations(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
    keys = [(row["kind"], row["step"]) for row in found]
    assert len(keys) == len(set(keys))
    assert [key for key in keys if key[0] == "train"] == [("train", step) for step in (20, 40)]
    return [row for row in found if row["kind"] == "eval"]


FROZEN = {**VARIED, "data.weights": "0.5,1"}
TRAINED = {**FROZEN, "encoder.train": "all", "image.random_resized_crop_scale": 0.6, "image.color_jitter": 0.3,
           "data.num_workers": 2,
           "trainer.gradient_accumulation_steps": 2}  # fmt: skip


CRITICAL = {
    "trainer.init": "a model",
    "loss.objective": "self-critical",
    "image.flip": "true",
    "data.weights": "0.5,1",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "seed", "interrupted"),
    [(FROZEN, 1, False), (TRAINED, 2, True), (CRITICAL, 3, False)],
    ids=["frozen", "trained", "self-critical"],
)
def test_three_kills_change_no_bit(
    data: Path, backbone: Path, tmp_path: Path, changes: dict, seed: int, interrupted: bool
) -> None:
    more = {"trainer.epochs": STEPS // 3, "trainer.eval_every": 4, "trainer.checkpoint_every": 0, "trainer.patience": 0}
    if "trainer.init" in changes:
        train(data, tmp_path / "before", make_recipe(backbone, {"trainer.epochs": 30, "trainer.patience": 0}))
        changes = {**changes, "trainer.init": tmp_path / "before" / BEST}
    flags = make_recipe(backbone, {**changes, **more}).to_flags()
    alone, killed, log = tmp_path / "alone", tmp_path / "killed", tmp_path / "log"
    datasets = [data, make_halves(tmp_path / "halves")]
    start(["train", *datasets, "--output", alone, *flags], log).join(300)
    assert step_of(alone) == STEPS, log.read_text()

    generator = random.Random(seed)
    signals = [signal.SIGKILL] * 3 + [signal.SIGINT] * interrupted
    for number, step in enumerate(sorted(generator.sample(range(1, STEPS - 8), len(signals)))):
        process = start(["train", *datasets, "--output", killed, *(["--resume"] if number else flags)], log)
        wait_for(killed, step, process)
        time.sleep(generator.uniform(0, 0.1))
        os.killpg(process.pid, signals[number])
        process.join(240)
        said = log.read_text()
        assert step <= step_of(killed) < STEPS, said
        assert process.exitcode == (130 if signals[number] == signal.SIGINT else -signal.SIGKILL)
    if interrupted:
        again = f"to go on: captionkit train {data} {tmp_path / 'halves'} --output {killed}"
        assert f"stopped after step {step_of(killed)}; {again}" in said
        assert said.endswith("captionkit: interrupted\n") and "Traceback" not in said
    start(["train", *datasets, "--output", killed, "--resume"], log).join(300)
    said = log.read_text()
    assert "resumed after step" in said and "all epochs done" in said

    assert same_tensors(alone / LAST, killed / LAST)
    assert (alone / BEST / "model.safetensors").read_bytes() == (killed / BEST / "model.safetensors").read_bytes()
    assert evaluations(alone) == evaluations(killed)


def interrupted_at(step: int, number: signal.Signals):
    """`TrainStep.step` that is interrupted in the middle of a step (counted from 0)."""
    original = TrainStep.step

    def interrupted(self, at: int, images):
        if at == step:
            os.kill(os.getpid(), number)
        return original(self, at, images)

    return interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, *slow(signal.SIGTERM)])
def test_an_interrupt_saves_the_step_and_says_how_to_go_on(
    data: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    uninterrupted: Callable,
    number: signal.Signals,
) -> None:
    recipe = make_recipe(backbone, {"trainer.checkpoint_every": 3600})
    usual = signal.getsignal(number)
    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "step", interrupted_at(4, number))
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "run", recipe)
    assert signal.getsignal(number) is usual
    assert step_of(tmp_path / "run") == 5
    said = capfd.readouterr().err
    assert "finishing this step" in said and f"stopped after step 5; to go on: captionkit train {data}" in said
    train(data, tmp_path / "run", resume=True)
    assert same_tensors(tmp_path / "run" / LAST, uninterrupted(recipe) / LAST)


def test_a_second_interrupt_stops_at_once(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second did not stop it")

    monkeypatch.setattr(TrainStep, "step", twice)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", make_recipe(backbone))
    assert not (tmp_path / "run" / LAST).exists()


def test_a_run_that_is_done_stays_as_it_is(data: Path, backbone: Path, tmp_path: Path) -> None:
    done = train(data, tmp_path / "run", make_recipe(backbone))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert train(data, tmp_path / "run", resume=True) == done
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_several_sessions_make_one_curve(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def killed_at(step: int):
        original = trainer._Trainer._save

        def save(self) -> None:
            if self.progress.step > step:
                raise KeyboardInterrupt
            original(self)

        return save

    recipe = make_recipe(backbone, {"trainer.epochs": 8, "trainer.checkpoint_every": 3600, "trainer.patience": 0})
    for step in (3, 9, 15):  # each session records an evaluation that its checkpoint does not know
        with monkeypatch.context() as patched:
            patched.setattr(trainer._Trainer, "_save", killed_at(step))
            with pytest.raises(KeyboardInterrupt):
                train(data, tmp_path / "run", recipe, resume=step > 3)
        time.sleep(1)  # event files are named by the second
    train(data, tmp_path / "run", resume=True)
    lines = (tmp_path / "run" / METRICS).read_text(encoding="utf-8").splitlines()
    recorded = [row["step"] for row in map(json.loads, lines) if row["kind"] == "eval"]
    assert recorded == list(range(3, 25, 3))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/val_loss")] == recorded


def test_progress_that_an_earlier_version_stored_is_read_by_its_old_names(tmp_path: Path) -> None:
    import torch

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    save_checkpoint(tmp_path / LAST, Progress(step=3, collapse="why"), "same", {"model": model}, optimizer)
    stored, metadata = load_file(tmp_path / LAST), {"fingerprint": "same"}
    metadata["progress"] = json.dumps({"step": 3, "harm": "why"})
    save_file(stored, tmp_path / LAST, metadata)
    assert load_checkpoint(tmp_path / LAST, "same", {"model": model}, optimizer) == Progress(step=3, collapse="why")
