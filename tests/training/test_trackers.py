"""Trackers of a run: told everything, refused early where they are missing, and never the end of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

from accelerate import tracking

from captionkit.cli import main as cli
from captionkit.data.run_files import METRICS
from captionkit.errors import RecipeError
from captionkit.training import trainer
from captionkit.training.run import trackers
from captionkit.training.trainer import train
from shapes import make_recipe
from tiers import slow

pytestmark = pytest.mark.usefixtures("alone")


class Notebook(tracking.GeneralTracker):
    """A tracker that writes down what it is told; `fails_at` makes the call of that name fail."""

    name = "notebook"
    requires_logging_directory = False
    told: list[tuple[str, Any]] = []  # noqa: RUF012  (emptied by the fixture)
    fails_at = ""

    def __init__(self, project: str, **_: Any) -> None:
        super().__init__()
        self._note("project", project)

    def _note(self, what: str, value: Any) -> None:
        if what == self.fails_at:
            raise ConnectionError("the network is down\nand a long story")
        self.told.append((what, value))

    @property
    def tracker(self) -> Any:
        return None

    def store_init_configuration(self, values: dict) -> None:
        self._note("config", values)

    def log(self, values: dict, step: int | None = None, **_: Any) -> None:
        self._note("log", (step, values))

    def finish(self) -> None:
        self._note("finish", None)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> type[Notebook]:
    """The tracker, known to Accelerate as `register_tracker_class` makes one known."""
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    monkeypatch.setattr(Notebook, "told", [])
    monkeypatch.setattr(Notebook, "fails_at", "")
    return Notebook


def told(notebook: type[Notebook], what: str) -> list[Any]:
    return [value for kind, value in notebook.told if kind == what]


CHANGES = {"trainer.epochs": 8, "trainer.eval_every": 4, "trainer.patience": 0, "trainer.report_to": "notebook"}


def test_a_tracker_is_told_the_recipe_and_every_row(
    data: Path, backbone: Path, tmp_path: Path, notebook: type[Notebook]
) -> None:
    train(data, tmp_path / "run", make_recipe(backbone, CHANGES))
    assert [kind for kind, _ in notebook.told] == ["project", "config", "log", "log", "log", "finish"]
    (config,) = told(notebook, "config")
    assert config["trainer.epochs"] == 8 and config["image.flip_unless"] == "left,right"
    recorded = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text(encoding="utf-8").splitlines()]
    rows = [
        (row["step"], f"{row['kind']}/{name}", row[name])
        for row in recorded
        for name in ("loss", "val_loss")
        if name in row
    ]
    logged = [(step, name, value) for step, values in told(notebook, "log") for name, value in values.items()]
    assert len(rows) == 3 and set(rows) <= set(logged)
    assert not (tmp_path / "run" / "tensorboard").exists()  # the only tracker is another


def test_a_run_without_trackers_leaves_metrics_alone(data: Path, backbone: Path, tmp_path: Path) -> None:
    arguments = [
        "train",
        data,
        "--output",
        tmp_path / "run",
        *make_recipe(backbone, {"trainer.report_to": ""}).to_flags(),
    ]
    assert cli.main([str(argument) for argument in arguments]) == 0
    assert (tmp_path / "run" / METRICS).stat().st_size and not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize("at", ["log", *slow("project", "config", "finish")])
def test_a_tracker_that_fails_is_named_once_and_the_run_ends_well(
    at: str,
    data: Path,
    backbone: Path,
    tmp_path: Path,
    notebook: type[Notebook],
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    monkeypatch.setattr(notebook, "fails_at", at)
    recipe = make_recipe(backbone, {**CHANGES, "trainer.report_to": "notebook,tensorboard"})
    assert train(data, tmp_path / "run", recipe).steps == 24
    lines = [line for line in capsys.readouterr().err.splitlines() if "notebook" in line]
    assert len(lines) == 1 and "the network is down" in lines[0] and "long story" not in lines[0]
    assert list((tmp_path / "run" / "tensorboard").iterdir())  # the others go on


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("wandb", "trainer.report_to: wandb is not installed; `pip install wandb`, or leave it out"),
        ("mlfow", "trainer.report_to: 'mlfow' is unknown; did you mean 'mlflow'? there are"),
        ("tensorboard,pigeon", "trainer.report_to: 'pigeon' is unknown; there are aim,"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_before_any_work(
    names: str, said: str, data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard"])
    monkeypatch.setattr(trainer, "prepare", lambda *_: pytest.fail("work began"))
    with pytest.raises(RecipeError) as caught:
        train(data, tmp_path / "run", make_recipe(backbone, {"trainer.report_to": names}))
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_resumed_run_is_known_by_its_id(
    data: Path, backbone: Path, tmp_path: Path, notebook: type[Notebook], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def options(name: str, path: Path, known: str | None) -> dict:
        given.append((name, path.name, known))
        return {}

    monkeypatch.setattr(trackers, "_options", options)
    monkeypatch.setattr(trackers, "_id_of", lambda *_: "seven")
    original = trainer._Trainer._evaluate

    def stopped(self) -> None:
        original(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer._Trainer, "_evaluate", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "run", make_recipe(backbone, CHANGES))
    assert told(notebook, "finish") == [None]  # also after an interrupt
    train(data, tmp_path / "run", resume=True)
    train(data, tmp_path / "run", resume=True)  # done: nobody is told
    assert given == [("notebook", "run", None), ("notebook", "run", "seven")]


def test_wandb_and_mlflow_take_up_the_run_that_they_know() -> None:
    run = Path("some/run")
    assert trackers._options("wandb", run, None) == {"name": "run", "dir": "some/run"}
    assert trackers._options("wandb", run, "7") == {"name": "run", "dir": "some/run", "id": "7", "resume": "allow"}
    assert trackers._options("mlflow", run, None) == {"run_name": "run"}
    assert trackers._options("mlflow", run, "7") == {"run_id": "7"}
