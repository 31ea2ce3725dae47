"""Which image a result is of: row numbers, floats, paths of Windows, printed lists, wrappers; and what is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import captionkit
from captionkit.cli.main import main
from captionkit.errors import CaptionkitError
from captionkit.inference.results import ResultsFile
from captionkit.metrics.caption_files import read_candidates, read_references

WRITTEN = {
    0: ["A brown dog runs on the grass.", "The dog is running outside."],
    1: ["Two people ride a red bus.", "A red bus carries two people."],
    2: ["A man stands by the sea.", "Someone looks at the sea."],
    3: ["A cat sleeps on a sofa.", "The cat's asleep."],
}
NAMES = {0: "sea.jpg", 1: "dog.jpg", 2: "cat.jpg", 3: "bus.jpg"}
SAID = {0: "a brown dog runs on the grass", 1: "two people ride a bus", 2: "a man by the sea", 3: "a cat on a sofa"}
RIGHT = captionkit.evaluate(SAID, WRITTEN, ["cider"])["CIDEr-D"]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def table(path: Path, header: list[str], rows: list[list[object]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([header, *rows])
    return path


@pytest.fixture
def references(tmp_path: Path) -> Path:
    images = [{"id": known, "file_name": NAMES[known]} for known in WRITTEN]
    captions = [{"image_id": known, "caption": text} for known, some in WRITTEN.items() for text in some]
    return write(tmp_path / "captions_val.json", {"images": images, "annotations": captions})


def score(candidates: Path, references: Path) -> tuple[float, list[str]]:
    scores = captionkit.evaluate(candidates, references, ["cider"])
    assert len(scores.ids) == 4
    return scores["CIDEr-D"], scores.notes


ORDER = (2, 0, 3, 1)  # of the rows, so that their numbers are other images' ids


@pytest.mark.parametrize("number", ["id", "image_id"])
@pytest.mark.parametrize("first", [0, 1])
def test_the_number_of_a_row_is_no_image(tmp_path: Path, references: Path, number: str, first: int) -> None:
    rows = [[place, f"photos/{NAMES[known]}", SAID[known]] for place, known in enumerate(ORDER, first)]
    file = table(tmp_path / "r.csv", [number, "image", "caption"], rows)
    value, notes = score(file, references)
    assert value == pytest.approx(RIGHT)
    assert any(f"column {number!r} names other images in" in note and "column 'image'" in note for note in notes)
    entries = [{number: row[0], "image": row[1], "caption": row[2]} for row in rows]
    assert score(write(tmp_path / "r.json", entries), references)[0] == pytest.approx(RIGHT)
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    assert score(write(tmp_path / "r.jsonl", lines), references)[0] == pytest.approx(RIGHT)


def test_the_column_that_agrees_is_taken_and_what_agrees_is_not_said(tmp_path: Path, references: Path) -> None:
    rows = [[known, NAMES[known], SAID[known]] for known in ORDER]
    value, notes = score(table(tmp_path / "r.csv", ["id", "image", "caption"], rows), references)
    assert value == pytest.approx(RIGHT) and not any("column" in note for note in notes)
    rows = [[known, f"upload-{place}.jpg", SAID[known]] for place, known in enumerate(ORDER)]
    value, notes = score(table(tmp_path / "r.csv", ["id", "image", "caption"], rows), references)
    assert value == pytest.approx(RIGHT)
    assert any("column 'image' names no image of" in note and "column 'id'" in note for note in notes)


def test_two_captions_or_none_of_an_image_under_the_right_column_are_an_error(tmp_path: Path, references: Path) -> None:
    rows: list[list[object]] = [[place, NAMES[known], SAID[known]] for place, known in enumerate(ORDER)]
    twice = table(tmp_path / "r.csv", ["id", "image", "caption"], [*rows, [4, NAMES[2], "another"]])
    with pytest.raises(CaptionkitError, match=r"r\.csv: image 'cat.jpg' has two captions \(line 2 and line 6\)"):
        captionkit.evaluate(twice, references, ["cider"])
    hole = table(tmp_path / "h.csv", ["id", "image", "caption"], [*rows[:3], [3, "", "a cat"]])
    with pytest.raises(CaptionkitError, match=r"h\.csv, line 5: names no image under 'image'"):
        captionkit.evaluate(hole, references, ["cider"])


def test_ids_that_were_read_as_floats_are_whole_numbers(tmp_path: Path, references: Path) -> None:
    floats = [{"image_id": float(known), "caption": text} for known, text in SAID.items()]
    forms = [
        write(tmp_path / "list.json", floats),
        write(tmp_path / "lines.jsonl", "".join(json.dumps(row) + "\n" for row in floats)),
        write(tmp_path / "keys.json", {f"{known}.0": text for known, text in SAID.items()}),
        table(tmp_path / "t.csv", ["image_id", "caption"], [[float(known), text] for known, text in SAID.items()]),
        table(tmp_path / "zeros.csv", ["image_id", "caption"], [[f"{known:08}", text] for known, text in SAID.items()]),
    ]
    for file in forms:
        assert score(file, references)[0] == pytest.approx(RIGHT), file
    assert captionkit.evaluate(floats, WRITTEN, ["cider"])["CIDEr-D"] == pytest.approx(RIGHT)
    content = json.loads(references.read_text())
    for entry in (*content["images"], *content["annotations"]):
        entry |= {name: float(entry[name]) for name in ("id", "image_id") if name in entry}
    again = write(tmp_path / "floats.json", content)
    assert score(forms[0], again)[0] == pytest.approx(RIGHT)
    for wrong in ("NaN", "Infinity", "1.5", "1e300"):
        bad = write(tmp_path / "bad.json", f'[{{"image_id": {wrong}, "caption": "a dog"}}]')
        with pytest.raises(CaptionkitError, match='entry 0 needs an "image_id"'):
            read_candidates(bad)


@pytest.mark.parametrize("root", ["C:\\data\\val\\", "..\\val\\", "\\\\server\\share\\", "/mnt/c/data/"])
def test_paths_of_any_system_are_matched(tmp_path: Path, references: Path, root: str) -> None:
    rows = [[root + NAMES[known], text] for known, text in SAID.items()]
    assert score(table(tmp_path / "r.csv", ["image", "caption"], rows), references)[0] == pytest.approx(RIGHT)
    keys = {root + NAMES[known]: text for known, text in SAID.items()}
    assert score(write(tmp_path / "r.json", keys), references)[0] == pytest.approx(RIGHT)


def test_images_of_one_name_are_told_by_their_folders() -> None:
    written = {"train/1.jpg": ["a dog runs"], "val/1.jpg": ["a red bus"], "val/2.jpg": ["the sea"]}
    said = {f"C:\\set\\{name}".replace("/", "\\"): some[0] for name, some in written.items()}
    scores = captionkit.evaluate(said, written, ["bleu"])
    assert len(scores.ids) == 3 and scores["BLEU-1"] == pytest.approx(1)


PRINTED = {
    "python": "['A dog', \"dog's run\"]",
    "json": '["A dog", "dog\'s run"]',
    "numpy": "['A dog'\n \"dog's run\"]",
    "tuple": "('A dog', \"dog's run\")",
    "objects": '[{"raw": "A dog"}, {"raw": "dog\'s run"}]',
}


@pytest.mark.parametrize("kind", PRINTED)
def test_a_cell_that_prints_a_list_is_its_captions_or_an_error(tmp_path: Path, kind: str) -> None:
    written = table(tmp_path / "w.csv", ["image", "caption"], [["1.jpg", PRINTED[kind]]])
    assert [image.captions for image in read_references(written).images] == [("A dog", "dog's run")]
    said = table(tmp_path / "r.csv", ["image_id", "caption"], [[1, PRINTED[kind]]])
    with pytest.raises(CaptionkitError, match="image '1' has several captions; one text for each image is scored"):
        read_candidates(said)


def test_a_printed_list_of_one_or_that_cannot_be_read(tmp_path: Path) -> None:
    one = table(tmp_path / "one.csv", ["image_id", "caption"], [[1, "['A dog']"], [2, "[sic] a dog"]])
    assert read_candidates(one).captions == {"1": "A dog", "2": "[sic] a dog"}
    for cell in ("['A dog', 'dog", "['A dog' 'b' ... 'c']", "[{'raw': 'A dog'}]"):
        cut = table(tmp_path / "cut.csv", ["image", "caption"], [["1.jpg", cell]])
        with pytest.raises(CaptionkitError, match="a list that cannot be read"):
            read_candidates(cut)
        wrote = read_references(cut)
        assert wrote.images[0].captions == () and "a list that cannot be read" in wrote.problems[0]


def test_results_as_pycocoevalcap_has_them_and_in_an_object_around_them(tmp_path: Path, references: Path) -> None:
    listed = [{"image_id": known, "caption": text} for known, text in SAID.items()]
    for name, content in {
        "each": {str(known): [{"caption": text}] for known, text in SAID.items()},
        "object": {str(known): {"caption": text} for known, text in SAID.items()},
        "results": {"results": listed},
        "more": {"info": {"model": "x"}, "predictions": listed},
        "annotations": {"annotations": listed},
        "named": [{"file_name": NAMES[known], "text": text} for known, text in SAID.items()],
    }.items():
        assert score(write(tmp_path / f"{name}.json", content), references)[0] == pytest.approx(RIGHT), name
    several = [{"image_id": known, "caption": text} for known, some in WRITTEN.items() for text in some]
    swapped = write(tmp_path / "swapped.json", {"annotations": several})
    with pytest.raises(CaptionkitError, match="these are references, not results"):
        read_candidates(swapped)
    with pytest.raises(CaptionkitError, match=r"packed\.json\.gz: unknown kind of results file; .*; unpack it"):
        read_candidates(write(tmp_path / "packed.json.gz", ""))


def test_an_image_with_one_caption_twice_is_read_and_with_two_is_not(tmp_path: Path, references: Path) -> None:
    rows = [[NAMES[known], text] for known, text in SAID.items()]
    again = table(tmp_path / "r.csv", ["path", "caption"], [*rows, rows[0]])
    assert score(again, references)[0] == pytest.approx(RIGHT)


def test_missing_values_among_candidates_are_told(references: Path) -> None:
    scores = captionkit.evaluate({**SAID, 2: "nan"}, references, ["cider"])
    assert any("1 captions only stand for a missing value, as 'nan' does: 2" in note for note in scores.notes)


def test_many_keys_of_which_the_last_stands_twice_are_read_in_one_pass(tmp_path: Path) -> None:
    pairs = ", ".join(f'"{n}": "a dog"' for n in range(100_000))
    file = write(tmp_path / "r.json", f'{{{pairs}, "99999": "a cat"}}')
    with pytest.raises(CaptionkitError, match="'99999' stands twice in one object"):  # for hours, if it counted each
        read_candidates(file)


# --- what is written ---


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_an_image_that_was_named_twice_is_scored_once(tmp_path: Path, references: Path, suffix: str, capsys) -> None:
    file = tmp_path / f"out{suffix}"
    with ResultsFile(file) as results:
        for known in (1, 1, 0, 2, 3):
            caption = {"text": SAID[known], "log_prob": -1.0, "confidence": 0.5}
            results.add({"path": NAMES[known], "captions": [caption]})
    assert main(["score", str(references), str(file), "--metrics", "cider", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["CIDEr-D"] == pytest.approx(RIGHT, abs=1e-5)
