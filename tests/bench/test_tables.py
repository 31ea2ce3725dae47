"""bench/tables.py: the tables of the documents are those of bench/results/."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tables
from captionkit.errors import CaptionkitError

REPORT: tables.Report = ["`python bench/serve.py`", tables.table(["a", "b"], [["1", "2"], ["3", ""]])]
TOLD = "`python bench/serve.py`\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout with one document and one result."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "serve.md").write_text("before\n<!-- serve: begin -->\nold\n<!-- serve: end -->\nafter\n")
    (tmp_path / "serve.json").write_text(json.dumps(REPORT))
    return tmp_path


def test_the_documents_are_up_to_date() -> None:
    assert tables.update(tables.ROOT, tables.RESULTS, check=True) == []
    named = {path.stem for path in tables.RESULTS.glob("*.json")}
    assert named >= {"bulk", "metrics", "serve", "speed"}
    assert all(path.stat().st_size < 100_000 for path in tables.RESULTS.glob("*.json"))


def test_a_report_takes_the_place_of_the_last_one(place: Path) -> None:
    document = place / "docs" / "serve.md"
    assert tables.update(place, place, check=True) == [document] and "old" in document.read_text()
    assert tables.update(place, place) == [document]
    assert document.read_text() == f"before\n<!-- serve: begin -->\n\n{TOLD}\n<!-- serve: end -->\nafter\n"
    assert tables.update(place, place) == []


def test_what_is_saved_is_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables.tell(REPORT, tmp_path / "serve.json")
    assert capsys.readouterr().out == TOLD + "\n"
    assert tables.read(tmp_path / "serve.json") == REPORT


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("docs/serve.md", "nothing", r"serve\.md: has no place for the report; put <!-- serve: begin --> and"),
        ("serve.json", "{", r"serve\.json: holds no report of a bench"),
        ("serve.json", '[{"columns": ["a"]}]', r"serve\.json: holds no report of a bench \(KeyError"),
        ("walk.json", "[]", r"walk\.json: no document is named for it"),
    ],
)
def test_what_is_wrong_is_one_line(place: Path, name: str, content: str, reason: str) -> None:
    (place / name).write_text(content)
    with pytest.raises(CaptionkitError, match=reason) as caught:
        tables.update(place, place)
    assert "\n" not in str(caught.value)
