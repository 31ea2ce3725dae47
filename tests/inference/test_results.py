"""Files of captions: what they hold, that they grow in constant memory, and what a killed run leaves."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.data.layouts.caption_set import id_of_file
from captionkit.errors import CaptionkitError
from captionkit.inference import results
from captionkit.inference.results import ResultsFile

SUFFIXES = (".json", ".jsonl", ".csv")


def said(path: str, text: str = "a dog", review: bool | None = None, **more: Any) -> dict[str, Any]:
    marked = {} if review is None else {"review": review}
    caption = {"text": text, "log_prob": -1.25, "confidence": 0.5, **marked}
    return {"path": path, "captions": [caption, {**caption, "text": "another"}], **marked, **more}


def written(file: Path, records: Sequence[dict[str, Any]]) -> bytes:
    with ResultsFile(file) as growing:
        for record in records:
            growing.add(record)
    return file.read_bytes()


# --- the same files, written from records that are all held in memory ---


def plain_ids(paths: Sequence[str]) -> list[int | str]:
    ids = [id_of_file(path) for path in paths]
    counts = Counter(str(known) for known in ids)
    mixed = [path if counts[str(known)] > 1 else known for known, path in zip(ids, paths, strict=True)]
    return mixed if len(set(map(str, mixed))) == len(set(paths)) else list(paths)


def plain_coco(records: Sequence[dict[str, Any]]) -> str:
    first: dict[object, dict[str, Any]] = {}
    for record in records:
        if "captions" in record:
            key = record.get("image_id", os.path.abspath(record["path"]))  # noqa: PTH100 - links stay
            first.setdefault(key, record)
    good = list(first.values())
    ids = [record["image_id"] for record in good if "image_id" in record] or plain_ids([one["path"] for one in good])
    rows = [
        {
            "image_id": known,
            "caption": one["captions"][0]["text"],
            **({"review": one["review"]} if "review" in one else {}),
        }
        for known, one in zip(ids, good, strict=True)
    ]
    return "[" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "]\n"


def plain_lines(records: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def plain_csv(records: Sequence[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    review = any("review" in record for record in records)
    writer.writerow(["path", "rank", "caption", "log_prob", "confidence", "error", *["review"] * review])
    for record in records:
        for rank, one in enumerate(record.get("captions", ()), 1):
            marked = [str(one["review"]).lower()] if review else []
            writer.writerow([record["path"], rank, one["text"], one["log_prob"], one["confidence"], "", *marked])
        if "error" in record:
            writer.writerow([record["path"], "", "", "", "", record["error"], *[""] * review])
    return buffer.getvalue()


PLAIN = {".json": plain_coco, ".jsonl": plain_lines, ".csv": plain_csv}
names = st.text("ab1_./é\udc80", min_size=1, max_size=6).filter(lambda name: name.strip("./"))


@pytest.mark.parametrize("every", [20.0, -1.0], ids=["at the end", "as it goes"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_file_is_as_if_written_at_once(suffix: str, every: float, data: st.DataObject) -> None:
    review = data.draw(st.sampled_from([None, True, False]))
    records = [
        said(name, data.draw(st.text('ab,"\n é', max_size=5)), review) if good else {"path": name, "error": "is, bad"}
        for name, good in data.draw(st.lists(st.tuples(names, st.booleans()), max_size=8))
    ]
    if suffix == ".json" and data.draw(st.booleans()):
        records = [{**record, "image_id": place // 2} for place, record in enumerate(records)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(results, "_EVERY", every)
        got = written(Path(folder) / f"r{suffix}", records)
    assert got == PLAIN[suffix](records).encode("utf-8", "backslashreplace")
    if suffix == ".json":
        ids = [str(row["image_id"]) for row in json.loads(got)]
        assert len(set(ids)) == len(ids)


def test_ids_come_from_names_unless_they_repeat(tmp_path: Path) -> None:
    def ids(*paths: str) -> list[int | str]:
        return [row["image_id"] for row in json.loads(written(tmp_path / "r.json", [said(path) for path in paths]))]

    assert ids("a/000000000042.jpg", "COCO_val2014_000000000007.jpg", "dog.png") == [42, 7, "dog"]
    assert ids("a/1.jpg", "b/1.jpg", "2.jpg") == ["a/1.jpg", "b/1.jpg", 2]
    assert ids("a.jpg", "./a.jpg") == ["a"]


def test_ids_are_made_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the steps that the database takes, where half of the ids are another's."""
    steps, connect = 0, sqlite3.connect

    def counted(place: str) -> sqlite3.Connection:
        def step() -> None:
            nonlocal steps
            steps += 1

        opened = connect(place)
        opened.set_progress_handler(step, 100)
        return opened

    monkeypatch.setattr(sqlite3, "connect", counted)
    taken = []
    for size in (500, 2000):
        steps = 0
        paths = [f"{n % 2}/{n // 2}x.jpg" for n in range(size)]
        rows = json.loads(written(tmp_path / "r.json", [said(path) for path in paths]))
        assert [row["image_id"] for row in rows] == paths
        taken.append(steps)
    assert 0 < taken[1] < 6 * taken[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_images(tmp_path: Path, suffix: str) -> None:
    words = [{"text": "word", "confidence": 0.5}] * 60
    with ResultsFile(tmp_path / f"r{suffix}") as growing:
        growing.add(said("first.jpg"))
        tracemalloc.start()
        try:
            for number in range(200):
                growing.add(said(f"{number}.jpg", words=words))
            growing._write()
            assert tracemalloc.get_traced_memory()[1] < 300_000  # the records have 540 kB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_run_leaves_what_it_did(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"r{suffix}"
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom captionkit.inference import results\n"
        "results._EVERY, results._SHARE = -1.0, 0\n"
        "caption = {'text': 'a dog', 'log_prob': -1.0, 'confidence': 0.5}\n"
        "with results.ResultsFile(Path(sys.argv[1])) as growing:\n"
        "    growing.add({'path': 'bad.jpg', 'error': 'is bad'})\n"
        "    for number in range(100):\n"
        "        growing.add({'path': f'{number}.jpg', 'captions': [caption]})\n"
        f"    os.kill(os.getpid(), {int(signal.SIGTERM if os.name == 'nt' else signal.SIGKILL)})\n"
    )
    assert subprocess.run([sys.executable, "-c", program, file]).returncode != 0
    text = file.read_text()
    if suffix == ".json":
        assert [row["image_id"] for row in json.loads(text)] == list(range(100))
    elif suffix == ".jsonl":
        assert [json.loads(line)["path"] for line in text.splitlines()][-1] == "99.jpg"
    else:
        assert [row["path"] for row in csv.DictReader(io.StringIO(text))][-1] == "99.jpg"
    assert len(text.splitlines()) == {".json": 100, ".jsonl": 101, ".csv": 102}[suffix]
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_was_touched_meanwhile_is_whole_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_EVERY", -1.0)
    file, records = tmp_path / "r.jsonl", [said(f"{number}.jpg") for number in range(6)]
    with ResultsFile(file) as growing:
        for number, record in enumerate(records):
            growing.add(record)
            if number == 2:
                file.rename(tmp_path / "moved.jsonl")
    assert file.read_text() == plain_lines(records)


def test_an_earlier_file_stays_until_there_is_a_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_EVERY", -1.0)
    file = tmp_path / "r.jsonl"
    before = written(file, [said("a.jpg")])
    with ResultsFile(file) as growing:
        growing.add({"path": "b.jpg", "error": "is bad"})
        assert file.read_bytes() == before
    assert file.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_told_in_one_line_and_cuts_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_EVERY", -1.0)
    file = tmp_path / "r.jsonl"

    def fill() -> None:
        with ResultsFile(file) as growing:
            growing.add(said("a.jpg"))
            growing._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
            growing.add(said("b.jpg"))

    with pytest.raises(CaptionkitError, match=r"r\.jsonl: cannot be written") as refused:
        fill()
    assert "\n" not in str(refused.value)
    assert [json.loads(line)["path"] for line in file.read_text().splitlines()] == ["a.jpg", "b.jpg"]
