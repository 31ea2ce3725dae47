"""The report of a run: what it tells, of which runs, and that no run is lost to it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")
pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")

import captionkit
from captionkit.cli import main as cli
from captionkit.cli.inspect import inspect_run
from captionkit.data.layouts import open_dataset
from captionkit.data.run_files import METRICS
from captionkit.errors import CaptionkitError
from captionkit.inference.model_folder import open_model
from captionkit.metrics import tokenize
from captionkit.metrics.document_frequencies import DocumentFrequencies
from captionkit.training import trainer
from captionkit.training.report import curves, examples
from captionkit.training.report.run_data import load_best_model
from captionkit.training.run import environment
from captionkit.training.run.sessions import EARLIER_SESSIONS, SESSIONS, read_sessions, write_sessions
from captionkit.training.run.timer import Timer
from captionkit.training.train_step import TrainStep
from captionkit.training.trainer import train
from pages import check_page
from shapes import make_recipe

CHANGES = {
    "trainer.epochs": 30,
    "optimizer.lr_decoder": 1e-2,
    "trainer.eval_every": 15,
    "trainer.patience": 0,
    "trainer.report_to": "",
    "trainer.log_samples": 2,
    "trainer.report": "true",
    "data.val_split": "train",
}
SECTIONS = ["Results", "Scores", "Curves", "Captions", "Where the model looked", "Speed", "Data", "Sessions"]
SECTIONS += ["Made with", "Recipe"]


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of its own, and neither ONNX nor METEOR, which take longer than the training."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CAPTIONKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.setitem(sys.modules, "onnx", None)
        patched.setitem(sys.modules, "pycocoevalcap", None)
        yield


@pytest.fixture(scope="module")
def shapes(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset with an image that is missing and one that cannot be read."""
    root = Path(shutil.copytree(data, tmp_path_factory.mktemp("reported") / "shapes"))
    (root / "blue-bar.png").unlink()
    (root / "red-bar.png").write_bytes(b"not an image")
    return root


@pytest.fixture(scope="module")
def sat(shapes: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two sessions, and its folder as the first, which was interrupted, left it."""
    folder = tmp_path_factory.mktemp("sat")
    original = trainer._Trainer._evaluate

    def interrupted(self) -> None:
        original(self)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer._Trainer, "_evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(shapes, folder / "run", make_recipe(backbone, CHANGES))
    shutil.copytree(folder / "run", folder / "first")
    train(shapes, folder / "run", resume=True)
    return folder / "run", folder / "first"


@pytest.fixture
def run(sat: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run to change; its curves are drawn no more, which takes the longest."""
    monkeypatch.setattr(curves, "curve_drawings", lambda _: [])
    monkeypatch.setattr("captionkit.training.report.command.draw_curves", lambda *_: None)
    return Path(shutil.copytree(sat[0], tmp_path / "run"))


def report(run: Path, *more: object) -> int:
    return cli.main(["report", str(run), *map(str, more)])


def texts(run: Path) -> tuple[str, str]:
    return tuple((run / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))  # type: ignore[return-value]


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


# --- what it tells ---


def test_the_report_tells_everything_of_both_sessions(sat: tuple[Path, Path], shapes: Path) -> None:
    page, text = texts(sat[0])
    assert headings(page) == SECTIONS == re.findall("^## (.*)", text, re.MULTILINE)
    best = json.loads((sat[0] / METRICS).read_text().splitlines()[-1])
    assert best["best"] and best["cider"] > 0
    source = environment.source_state()
    for told in (
        *(f"{best['cider']:.3f}", f"{best['bleu4']:.3f}", f"{best['val_loss']:.3f}"),
        *("BLEU-1", "ROUGE-L", "METEOR is left out", "95 % interval", "distinct captions", "tokens a second"),
        *("images a second", "0 to 45", "0 to 90", "interrupted", "all epochs done", "--resume", "shapes"),
        *("blue-bar.png", "red-bar.png", "optimizer.lr", "0.01", captionkit.__version__, str(Path.cwd())),
        *(open_dataset(shapes)["train"].fingerprint()[:12], "22", source.get("commit", "")[:12]),
        *("whole recipe", "label", "frozen", "1 thread" if environment.torch.get_num_threads() == 1 else "threads"),
    ):
        assert told in page and told in text, told
    assert f"captionkit train {shapes} --output {sat[0]} --data.val-split train" in page
    assert page.count("<li>\n<div class") == 4 + 2 + 4 + 4  # best, middle, worst; word by word
    assert "![Loss, " in text and "](curves.png)" in text and (sat[0] / "curves.png").exists()


def test_the_page_needs_no_network_and_no_eyes(sat: tuple[Path, Path]) -> None:
    page, _ = texts(sat[0])
    outline = check_page(page)
    assert len(outline.all("img")) >= 10 + 4 + 4 and len(page) < 3_000_000
    assert "default-src 'none'" in page


def test_the_scores_are_those_of_the_captions_of_the_kept_model(sat: tuple[Path, Path], shapes: Path) -> None:
    images = [example for example in open_dataset(shapes)["train"] if example.name != "red-bar.png"]
    kept = load_best_model(open_model(sat[0] / "best"))
    said = {example.id: kept.caption(example.image).text for example in images}
    assert json.loads((sat[0] / "captions.json").read_text()) == [
        {"image_id": known, "caption": caption} for known, caption in said.items()
    ]
    references = {example.id: example.captions for example in images}
    every = [list(map(tokenize, example.captions)) for example in open_dataset(shapes)["train"]]
    counted = DocumentFrequencies.of(every)  # with the image that cannot be read, as the run does
    scores = captionkit.evaluate(said, references, ["cider", "rouge"], frequencies=counted)
    low, high = scores.intervals["ROUGE-L"]
    assert f"| ROUGE-L | {scores['ROUGE-L']:.3f} | {low:.3f} to {high:.3f} |" in texts(sat[0])[1]
    shown = re.search(r"\*\*The best\*\*\n\n- (\S+): .*CIDEr-D ([\d.]+)", texts(sat[0])[1])
    assert shown and float(shown[2]) == pytest.approx(scores.per_image["CIDEr-D"].max(), abs=0.006)


def test_where_the_time_went_adds_up(sat: tuple[Path, Path]) -> None:
    for session in read_sessions(sat[0]):
        assert {"features", "data", "steps", "evaluation", "report", "other"} <= session.seconds.keys()
        assert min(session.seconds.values()) >= 0 and session.started <= session.seen
    assert "checkpoints" in session.seconds and "export" in session.seconds
    shares = [int(share) for share in re.findall(r"</span></span>(\d+)%", texts(sat[0])[0])]
    assert len(shares) == len(session.seconds) and abs(sum(shares) - 100) <= len(shares) / 2


def test_an_interrupted_run_has_a_report_too(sat: tuple[Path, Path]) -> None:
    page, text = texts(sat[1])
    check_page(page)
    assert headings(page) == [section for section in SECTIONS if section != "Where the model looked"]
    assert "stopped after 15 of at most 30 epochs" in text and "| 1 | 0 to 45 |" in text and "| interrupted |" in text
    assert page.count('<div class="photo">') == 2 and "captionkit report" in text  # the samples, and how to get all
    assert "METEOR" not in text


@pytest.mark.slow
def test_a_run_can_be_looked_at_while_it_goes_on(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "curve_drawings", lambda _: [])
    monkeypatch.setattr(trainer.RunFolder, "draw", lambda _: None)
    monkeypatch.setattr("captionkit.training.report.command.draw_curves", lambda *_: None)
    seen: list[str] = []
    original = trainer._Trainer._save

    def look(self) -> None:
        seen.append((tmp_path / "run" / "report.md").read_text(encoding="utf-8"))
        report(tmp_path / "run")
        seen.append((tmp_path / "run" / "report.md").read_text(encoding="utf-8"))
        original(self)

    monkeypatch.setattr(trainer._Trainer, "_save", look)
    train(data, tmp_path / "run", make_recipe(backbone, {**CHANGES, "trainer.epochs": 2, "trainer.eval_every": 1}))
    assert "under way: 1 of 2 epochs so far" in seen[0] and "| under way |" in seen[0]
    assert "under way" in seen[1] and "95 % interval" in seen[1]  # asked for, the report is whole


@pytest.mark.slow
def test_without_attention_there_is_nothing_word_by_word(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "curve_drawings", lambda _: [])
    changes = {"decoder.name": "show-tell", "decoder.attention": 256, "trainer.epochs": 1, "trainer.report": "true"}
    recipe = make_recipe(backbone, changes)
    train(data, tmp_path / "run", recipe)
    page, text = texts(tmp_path / "run")
    assert "show-tell sees an image once and as a whole" in text and "lit where" not in page
    assert text.startswith("# show-tell on ")
    groups = re.findall(r"\*\*(.*?)\*\*\n\n((?:- .*\n)+)", text)
    assert [name for name, _ in groups] == ["The best", "In the middle", "The worst"]  # one each, of three
    assert [len(lines.splitlines()) for _, lines in groups] == [1, 1, 1]


# --- of which runs ---


def test_a_run_of_before_there_were_sessions_is_told_from_its_model(run: Path, capsys) -> None:
    (run / SESSIONS).unlink()
    (run / "captions.json").unlink()
    before = texts(run)[1]
    assert report(run) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    text = texts(run)[1]
    scores = r"\| CIDEr-D \| .*? \|"
    assert re.search(scores, text)[0] == re.search(scores, before)[0]  # type: ignore[index]
    assert "captionkit train" in text and "| torch |" in text and "Not available" not in text


@pytest.mark.slow
def test_a_run_that_was_killed_before_anything_was_evaluated(run: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    shutil.copy(run / "recipe.toml", started)
    assert report(started) == 0
    page, text = texts(started)
    check_page(page)
    assert "Nothing has been evaluated yet" in text and "Not available" not in text
    session = {**json.loads((run / SESSIONS).read_text().splitlines()[0]), "end": "", "trackers": 5}
    (started / SESSIONS).write_text(json.dumps(session) + '\n[1]\n{"comm', encoding="utf-8")
    (started / METRICS).write_text((run / METRICS).read_text().splitlines()[0] + "\n")
    assert report(started) == 0
    assert "killed, as it said nothing" in texts(started)[1] and "--data.val-split train" in texts(started)[1]


@pytest.mark.slow
def test_data_that_has_moved_changed_or_gone(run: Path, shapes: Path, data: Path, tmp_path: Path, capsys) -> None:
    moved = Path(shutil.copytree(shapes, tmp_path / "moved"))
    assert report(run, "--data", moved) == 0 and "Not available" not in texts(run)[1]
    (moved / "gold-bar.png").write_bytes(b"torn")
    assert report(run, "--data", moved) == 0
    page, text = texts(run)
    assert "gold-bar.png: *no image: " in text and "No image: " in page and page.count('<div class="photo">') == 9
    capsys.readouterr()
    before = texts(run)
    assert report(run, "--data", data) == 1 and report(run, "--data", tmp_path / "nowhere") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "its fingerprint differs" in lines[0] and "nowhere" in lines[1]
    assert texts(run) == before
    sessions = (run / SESSIONS).read_text().replace(str(shapes), str(tmp_path / "gone"))
    (run / SESSIONS).write_text(sessions)
    assert report(run) == 0
    text = texts(run)[1]
    assert text.count("Not available") == 3 and "--data DATA" in text and "| validation loss |" in text


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, photos: Path, capsys) -> None:
    for place in (tmp_path, tmp_path / "nowhere", photos):
        assert report(place) == 1
        remedy = "give a folder that `captionkit train` made"
        assert capsys.readouterr().err == f"captionkit: {place}: holds no run (recipe.toml not found); {remedy}\n"
    assert not list(tmp_path.iterdir())


def test_inspect_names_the_report(run: Path) -> None:
    assert "report      report.html" in str(inspect_run(run)) and inspect_run(run).to_dict()["report"] is True
    (run / "report.html").unlink()
    assert f"`captionkit report {run}` writes it" in str(inspect_run(run))


# --- no run is lost to it ---


@pytest.mark.slow
def test_a_part_that_fails_is_a_line_among_the_others(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by nothing\nand more")

    monkeypatch.setattr(examples, "attention_strip", fails)
    monkeypatch.setattr(curves, "median", fails)
    assert report(run) == 0
    page, text = texts(run)
    check_page(page)
    assert headings(page) == SECTIONS
    assert text.count("Not available: ZeroDivisionError: by nothing") == 2 and "and more" not in text


def test_a_run_whose_report_fails_ends_well_and_says_so(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def full(*_: object) -> None:
        raise CaptionkitError("report.html: cannot be written (No space left on device)")

    monkeypatch.setattr("captionkit.training.report.document_html", full)
    monkeypatch.setattr(curves, "curve_drawings", lambda _: [])
    result = train(data, tmp_path / "run", make_recipe(backbone, {"trainer.epochs": 1, "trainer.report": "true"}))
    assert result.steps == 3 and read_sessions(tmp_path / "run")[-1].done
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("no report (")]
    assert lines and "No space left on device" in lines[-1] and f"captionkit report {tmp_path / 'run'}" in lines[-1]


@pytest.mark.slow
def test_a_failed_run_tells_why(data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "curve_drawings", lambda _: [])
    original = TrainStep.step
    monkeypatch.setattr(TrainStep, "step", lambda self, at, p: None if at == 4 else original(self, at, p))
    with pytest.raises(CaptionkitError, match="not finite"):
        train(data, tmp_path / "run", make_recipe(backbone, {"trainer.epochs": 2, "trainer.report": "true"}))
    assert "failed: the loss of step 5 is not finite" in texts(tmp_path / "run")[1]


@pytest.mark.slow
def test_a_run_that_is_done_is_not_told_again_unless_it_was_killed_before(run: Path, shapes: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    train(shapes, run, resume=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    sessions = [json.loads(line) for line in (run / SESSIONS).read_text().splitlines()]
    sessions[-1]["end"] = ""
    (run / SESSIONS).write_text("".join(json.dumps(session) + "\n" for session in sessions))
    (run / "report.html").unlink()
    train(shapes, run, resume=True)
    assert (run / SESSIONS).read_bytes() == before[run / SESSIONS] and "95 % interval" in texts(run)[0]


# --- clock and commit ---


def test_each_second_counts_for_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    at = [0.0]
    monkeypatch.setattr("captionkit.training.run.timer.time.monotonic", lambda: at[0])

    def items() -> Iterator[int]:
        for item in (1, 2):
            at[0] += 10
            yield item

    timer = Timer()
    at[0] += 1
    waiting = timer.waiting(items(), "data")
    with suppress(ValueError), timer.section("steps"):
        at[0] += 2
        assert list(waiting) == [1, 2]
        with timer.section("report"):
            at[0] += 100
        raise ValueError
    at[0] += 3
    assert timer.seconds == {"other": 4, "steps": 2, "data": 20, "report": 100}


def test_the_commit_is_that_of_captionkit_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "repository/venv/captionkit"
    (package / "training").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package.parents[1] / ".gitignore").write_text("venv\n")

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        environment.subprocess.run(
            ["git", "-C", str(package.parents[1]), *who, *arguments], check=True, capture_output=True
        )

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(environment, "__file__", str(package / "training/run/environment.py"))
    assert environment.source_state() == {}  # in a virtual environment inside somebody's repository
    git("add", "--force", "venv")
    git("commit", "-m", "second")
    clean = environment.source_state()
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"]) and clean["changed"] is False
    (package / "__init__.py").write_text("1")
    assert environment.source_state() == {**clean, "changed": True}
    monkeypatch.setenv("PATH", "")
    assert environment.source_state() == {}


# --- what earlier versions wrote ---


def test_sessions_of_an_earlier_version_are_read_by_their_old_names(tmp_path: Path) -> None:
    data = {"name": "shapes", "train": {"split": "train", "pictures": 12, "captions": 24}}
    old = {"command": "captionkit train shapes", "end": "interrupted", "step": 5, "data": data}
    (tmp_path / EARLIER_SESSIONS).write_text(json.dumps(old) + "\n", encoding="utf-8")
    (session,) = read_sessions(tmp_path)
    assert session.step == 5 and session.data["train"] == {"split": "train", "images": 12, "captions": 24}
    write_sessions(tmp_path, [session])
    assert read_sessions(tmp_path) == [session]
    assert (tmp_path / SESSIONS).exists() and json.loads((tmp_path / EARLIER_SESSIONS).read_text()) == old
