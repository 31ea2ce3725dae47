"""bench/speed.py as a whole, tiny: tables, JSON, image, and what is said of contenders that fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("onnx", reason="the extra `train` is not installed")

import speed
from speed_cases import ARITHMETIC, COLD, COMMAND, FORCED, IMPORTS, LIBRARY, MACHINE, PARTS, TEXTBOOK, case
from speed_picture import draw
from speed_report import marks, report
from speed_results import Results
from tables import figure, markdown, read
from tiers import slow

SETTINGS = {"command": "python bench/speed.py", "processor": "a processor", "threads": 1, "rounds": 3}
SETTINGS |= {"photos": "Made-up", "load": "0.0", "versions": "Python"}


def made() -> Results:
    """Three rounds with figures that are easy to reckon with."""
    work = {"flops": {"float32": 4_000_000}, "weights": 2 << 20, "passes": 2}
    results = Results(SETTINGS, "ours", ["ours"])
    facts = {"words": 9.0, "steps": 10, "pictures": 2, "work": {"encode": work, "decode": work}}
    turns = [{"total": total, "open": 1.0, "encode": total - 3, "decode": 2.0} for total in (10.0, 20.0, 40.0)]
    for name in (case(3, 1), case(3, 32), FORCED):
        results.facts.setdefault("ours", {})[name] = facts
        results.rounds.setdefault("ours", {})[name] = turns
    results.rounds[TEXTBOOK] = {FORCED: [{"total": total} for total in (400.0, 600.0, 4000.0)]}
    results.facts[TEXTBOOK] = {FORCED: {"steps": 20, "parameters": 50_000_000}}
    rates = {**dict.fromkeys(ARITHMETIC, 1e9), "reading 2 MB": 4 * (2 << 20) / 0.004}
    results.rounds[MACHINE] = {name: [{"rate": rate}] * 3 for name, rate in rates.items()}
    results.rounds[COLD] = {
        COMMAND: [{"total": 500.0}] * 3,
        LIBRARY: [{"total": 400.0, **dict.fromkeys(PARTS, 100.0)}] * 3,
        IMPORTS: [{"total": 4000.0}] * 3,
    }
    return results


def test_ratios_are_formed_within_a_round() -> None:
    assert made().ratio(TEXTBOOK, FORCED, case(3, 1)) == (40.0, 30.0, 100.0)  # the ratio of medians would be 30
    assert made().ratio("absent", FORCED, case(3, 1)) is None


def test_a_stage_against_the_limit() -> None:
    found = made().limit("ours", case(3, 1), "decode")
    # 4 MFLOPs at 1 GFLOP/s take 4 ms and two readings of 2 MB 2 ms, for two images of 2 ms each.
    assert found is not None
    assert (found.flops, found.least, found.binds) == (2e6, 2.0, "arithmetic")
    assert found.share == (1.0, 1.0, 1.0)
    assert made().reads() == ["reading 2 MB"]


def test_marks_are_told_with_what_was_measured() -> None:
    told = markdown([marks(made())])
    assert "| below 25 ms an image | 20.0 ms |" in told
    assert "| 100 images/s | 50.0 images/s |" in told
    assert "| 30 x the time | 40.0 x; 40.0 x as ours ends |" in told
    assert "| 10 x the time | – |" in told  # not measured
    assert "| below 0.6 s | 0.50 s |" in told


def test_three_digits() -> None:
    shown = {0.1234: "0.12", 9.994: "9.99", 9.996: "10.0", 99.94: "99.9", 99.96: "100", 1234.5: "1,234"}
    assert {value: figure(value) for value in shown} == shown


@pytest.mark.parametrize("lacking", [[MACHINE, COLD, TEXTBOOK, "ours"], *slow([], [MACHINE], [COLD], ["ours"])])
def test_what_was_not_measured_is_left_out(lacking: list[str], tmp_path: Path) -> None:
    results = made()
    for name in lacking:
        del results.rounds[name]
        results.failed[name] = "not installed"
    told = markdown(report(results))
    assert all(f"{name} (not installed)" in told for name in lacking)
    draw(results, tmp_path / "speed.png")
    with Image.open(tmp_path / "speed.png") as image:
        assert image.width > 1000


def test_contenders_take_turns_and_those_that_fail_are_named() -> None:
    entered = {
        "good": speed.Contender("contenders:Told", {"answer": 2.0}, ("a", "b")),
        "unmade": speed.Contender("contenders:unmade", {}, ("a",)),
        "killed": speed.Contender("contenders:Told", {}, ("a", "killed")),
    }
    results = Results(SETTINGS, "good", ["good"])
    speed.measure(entered, results, rounds=2)
    assert results.rounds == {"good": {"a": [{"total": 2.0}] * 2, "b": [{"total": 2.0}] * 2}}
    assert set(results.failed) == {"unmade", "killed"} and "SIGKILL" in results.failed["killed"]


@pytest.mark.slow
def test_the_command_measures_and_writes(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the command sets
    files = {flag: tmp_path / f"out{flag}" for flag in ("json", "save", "picture")}
    written = [part for flag, path in files.items() for part in (f"--{flag}", str(path))]
    chosen = ["--model", f"tiny={model_folder}", "--only", "tiny", "--rounds", "2", "--threads", "1"]
    assert speed.main([*chosen, *written]) == 0
    told = markdown(read(files["save"]))
    assert told in capsys.readouterr().out
    shown = f"python bench/speed.py --model tiny={model_folder} --only tiny --rounds 2 --threads 1"
    assert f"`{shown}`" in told
    kept = Results(**json.loads(files["json"].read_text(encoding="utf-8")))
    assert markdown(report(kept)) == told
    assert len(kept.values("tiny", case(5, 32))) == 2
    assert kept.facts["tiny"][FORCED]["steps"] == 20
    with Image.open(files["picture"]) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "folder"], "--model folder: give it as NAME=FOLDER"),
        (["--model", "torch={model}"], "torch is the name of another contender"),
        (["--model", "a={model}", "--model", "a={model}"], "a is the name of another contender"),
        (["--model", "a={empty}"], "no model folder"),
        (["--only", "bundled,blib"], "--only blib: no such contender; there are bundled, torch, textbook"),
        (["--photos", "{empty}"], "no images found"),
    ],
)
def test_a_wrong_choice_is_one_line(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert speed.main([one.format(model=untrained, empty=tmp_path) for one in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("speed.py: ") and reason in line


def test_rounds_are_whole_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speed.main(["--rounds", "0"])
    assert "0 is not a whole number from 1" in capsys.readouterr().err
