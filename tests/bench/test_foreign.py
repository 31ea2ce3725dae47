"""bench/foreign.py: it measures, goes on where it was stopped, and saves its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("transformers", reason="the extra `train` is not installed")
pytest.importorskip("skimage", reason="the extra `demo` is not installed")

import foreign
from workers import WorkerError


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["foreign", *map(str, arguments)])
    return foreign.main()


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, keep = tmp_path / "foreign.json", tmp_path / "kept"
    asked = ("--tiny", "--precisions", "fp32", "--keep", keep, "--save", saved, "--models", "vit-gpt2")
    assert run(monkeypatch, *asked, "--rounds", 1) == 0
    first = json.loads((keep / "vit-gpt2.figures.json").read_text())["figures"]
    assert set(first) == {"transformers", "captionkit fp32"}
    assert all(len(figures[case]) == 1 for figures in first.values() for case in foreign.CASES)
    assert first["captionkit fp32"]["peak MB"] < first["transformers"]["peak MB"]
    text = saved.read_text()
    asked_for, _, table = json.loads(text)
    assert asked_for == "`python bench/foreign.py --keep DIR --models vit-gpt2 --precisions fp32 --rounds 1 --tiny`"
    assert [row[1] for row in table["rows"]] == ["transformers", "captionkit fp32"]
    assert table["rows"][0][-1] == "1.00"

    made = []
    monkeypatch.setattr(foreign, "measure", lambda name, options: made.append(options.rounds) or first)
    assert run(monkeypatch, *asked, "--rounds", 1) == 0
    assert (made, saved.read_text()) == ([], text)
    assert run(monkeypatch, *asked, "--rounds", 2) == 0
    assert made == [2]


def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise WorkerError("its process was ended by SIGKILL; see whether memory ran out")

    monkeypatch.setattr(foreign, "measure", fail)
    assert run(monkeypatch, "--tiny", "--keep", tmp_path / "kept", "--models", "vit-gpt2") == 1
    assert capsys.readouterr().err == "foreign: its process was ended by SIGKILL; see whether memory ran out\n"
    assert not list((tmp_path / "kept").glob("*.json"))
