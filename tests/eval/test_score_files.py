"""From files and dictionaries to scores: what is read, what belongs together, and what is said where it does not."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import captionkit
from captionkit.cli.main import main
from captionkit.data.layouts import open_dataset
from captionkit.errors import CaptionkitError
from captionkit.metrics import CiderD, DocumentFrequencies, tokenize

WRITTEN = {
    1: ["A brown dog runs on the grass.", "The dog is running outside."],
    2: ["Two people ride a red bus.", "A red bus carries two people."],
    3: ["A man stands by the sea.", "Someone looks at the sea."],
    4: ["A cat sleeps on a sofa.", "The cat's asleep."],
}
SAID = {1: "a brown dog runs on the grass", 2: "a bus", 3: "a man by the sea", 4: "a dog sleeps on a sofa"}
FEW = ("bleu", "rouge", "cider")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco(written: dict, names: dict | None = None) -> dict:
    """COCO captions JSON."""
    images = [{"id": key, "file_name": (names or {}).get(key, f"{key:012}.jpg")} for key in written]
    captions = [{"image_id": key, "caption": text} for key, some in written.items() for text in some]
    return {"images": images, "annotations": [{"id": n, **row} for n, row in enumerate(captions)]}


def results(said: dict) -> list:
    return [{"image_id": key, "caption": text} for key, text in said.items()]


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return write(tmp_path / "captions_val.json", coco(WRITTEN))


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    return write(tmp_path / "results.json", results(SAID))


@pytest.fixture
def usual() -> captionkit.Scores:
    return captionkit.evaluate(SAID, WRITTEN, FEW)


# --- what holds candidates and references ---


def karpathy(path: Path) -> Path:
    images = [
        {"filename": f"{k}.jpg", "imgid": k, "split": "test", "sentences": [{"raw": t} for t in some]}
        for k, some in WRITTEN.items()
    ]
    images.append({"filename": "9.jpg", "imgid": 9, "split": "train", "sentences": [{"raw": "a train"}]})
    return write(path / "dataset_x.json", {"images": images})


def table(path: Path) -> Path:
    file = path / "captions.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "caption"])
        rows.writerows([f"{k:012}.jpg", text] for k, some in WRITTEN.items() for text in some)
    return file


def bare_annotations(path: Path) -> Path:
    content = coco(WRITTEN)
    return write(path / "bare.json", {"annotations": content["annotations"]})


def images_without_names(path: Path) -> Path:
    return write(path / "ids.json", {**coco(WRITTEN), "images": [{"id": key} for key in WRITTEN]})


@pytest.mark.parametrize("make", [karpathy, table, bare_annotations, images_without_names])
def test_references_of_any_layout_score_alike_without_pictures(
    tmp_path: Path, candidates: Path, usual: captionkit.Scores, make
) -> None:
    scores = captionkit.evaluate(candidates, make(tmp_path), FEW)
    assert dict(scores) == pytest.approx(dict(usual))
    assert scores.without_references == [] and scores.without_candidate == []


def as_lines(path: Path) -> Path:
    file = path / "r.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in results(SAID)), encoding="utf-8")
    return file


def as_printed(path: Path) -> Path:
    """As `captionkit caption --json` prints them, one image having failed."""
    rows = [
        {"path": f"photos/{k:012}.jpg", "captions": [{"text": t}, {"text": "x"}], "ms": {}} for k, t in SAID.items()
    ]
    rows.append({"path": "photos/broken.jpg", "error": "broken"})
    file = path / "printed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def as_table(path: Path) -> Path:
    """As `captionkit caption --output` writes them, two captions an image."""
    file = path / "r.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "rank", "caption", "log_prob", "confidence", "error"])
        for k, t in SAID.items():
            rows.writerows([[f"photos/{k:012}.jpg", 1, t, -1, 0.5, ""], [f"photos/{k:012}.jpg", 2, "x", -2, 0.1, ""]])
        rows.writerow(["photos/broken.jpg", "", "", "", "", "broken"])
    return file


def as_tabs(path: Path) -> Path:
    file = path / "r.tsv"
    file.write_text("image_id\tcaption\n" + "".join(f"{k}\t{t}\n" for k, t in SAID.items()), encoding="utf-8")
    return file


def as_semicolons_with_unquoted_commas(path: Path) -> Path:
    """As people's own tables are."""
    file = path / "r.csv"
    lines = "".join(f"{k};{t}\n" for k, t in SAID.items())
    file.write_text("Image ID;Caption\n" + lines.replace("a man by", "a man; by"), encoding="utf-8-sig")
    return file


def as_mapping(path: Path) -> Path:
    return write(path / "m.json", SAID)


@pytest.mark.parametrize(
    "make", [as_lines, as_printed, as_table, as_tabs, as_semicolons_with_unquoted_commas, as_mapping]
)
def test_candidates_in_any_file_score_alike(tmp_path: Path, references: Path, usual: captionkit.Scores, make) -> None:
    assert dict(captionkit.evaluate(make(tmp_path), references, FEW)) == pytest.approx(dict(usual))


def test_datasets_and_lists_are_taken_too(data: Path) -> None:
    dataset = open_dataset(data)
    said = [{"image_id": example.id, "caption": example.captions[0]} for example in dataset["val"]]
    scores = captionkit.evaluate(said, dataset["val"], FEW)
    assert scores["BLEU-1"] == pytest.approx(1) and len(scores.ids) == len(said)
    assert captionkit.evaluate({k: [v] for k, v in SAID.items()}, WRITTEN, FEW)["ROUGE-L"] > 0.5


def test_the_split_of_the_candidates_is_taken(tmp_path: Path, candidates: Path) -> None:
    scores = captionkit.evaluate(candidates, karpathy(tmp_path), FEW)
    assert scores.without_candidate == [] and "split 'test'" in scores.notes[0]
    with pytest.raises(CaptionkitError, match=r"no split 'validation'; there is test, train"):
        captionkit.evaluate(candidates, karpathy(tmp_path), FEW, split="validation")
    whole = captionkit.evaluate({**SAID, 9: "a train"}, karpathy(tmp_path), FEW)
    assert len(whole.ids) == 5
    assert len(captionkit.evaluate({**SAID, 9: "a train"}, karpathy(tmp_path), FEW, split="test").ids) == 4


# --- what belongs together ---


def test_partial_overlap_is_named() -> None:
    said = {key: text for key, text in SAID.items() if key != 2} | {77: "a lost caption", 78: "another"}
    scores = captionkit.evaluate(said, {**WRITTEN, 5: []}, FEW)
    assert scores.ids == [1, 3, 4] and scores.without_references == [77, 78] and scores.without_candidate == [2]
    assert any("2 of 5 candidates have no references and are left out: 77, 78" in note for note in scores.notes)
    assert any("1 of 4 images with references have no candidate and are left out: 2" in note for note in scores.notes)
    subset = captionkit.evaluate({k: SAID[k] for k in (1, 3, 4)}, {k: WRITTEN[k] for k in (1, 3, 4)}, FEW)
    assert dict(scores) == dict(subset)


def test_ids_as_text_on_one_side_match_and_it_is_said() -> None:
    scores = captionkit.evaluate({str(key): text for key, text in SAID.items()}, WRITTEN, FEW)
    assert len(scores.ids) == 4 and scores.ids == [1, 2, 3, 4]
    assert any("text on one side and numbers on the other" in note for note in scores.notes)


def test_file_names_match_where_ids_do_not(tmp_path: Path) -> None:
    names = {1: "x/dog.jpg", 2: "x/bus.jpg", 3: "x/sea.jpg", 4: "x/cat.jpg"}
    file = write(tmp_path / "captions_val.json", coco(WRITTEN, names))
    by_name = captionkit.evaluate({Path(names[k]).name: SAID[k] for k in names}, file, FEW)
    by_stem = captionkit.evaluate({Path(names[k]).stem: SAID[k] for k in names}, file, FEW)
    assert dict(by_name) == dict(by_stem) == dict(captionkit.evaluate(SAID, WRITTEN, FEW))
    assert any("file name" in note for note in by_name.notes)


def test_names_that_stand_for_two_images_match_neither(tmp_path: Path) -> None:
    file = write(tmp_path / "captions_val.json", coco(WRITTEN, {1: "a/dog.jpg", 2: "b/dog.jpg"}))
    scores = captionkit.evaluate({"dog": "a dog", "3": "a man", "4": "a cat"}, file, FEW)
    assert scores.ids == [3, 4] and scores.without_references == ["dog"]


def test_an_empty_candidate_scores_nothing_and_is_named() -> None:
    scores = captionkit.evaluate({**SAID, 2: "", 3: " . "}, WRITTEN)
    assert all(column[1] < 1e-9 and column[2] < 1e-9 for column in scores.per_image.values())
    assert any("2 captions have no word and score nothing: 2, 3" in note for note in scores.notes)
    assert not any("one caption is given" in note for note in scores.notes)


WRONG = {
    "a list of captions": (list(SAID.values()), WRITTEN, "a list of captions has no image ids; give {id: caption}"),
    "no captions": ({}, WRITTEN, "candidates: holds no captions to score"),
    "no references": (SAID, {}, "references: holds no references to score against"),
    "only empty reference lists": (SAID, dict.fromkeys(SAID, ()), "none of the images that have a candidate"),
    "duplicate ids": (results(SAID) + results({3: "again"}), WRITTEN, "image 3 has two captions (entry 2 and entry 4)"),
    "an id as text and as number": (results(SAID) + results({"3": "x"}), WRITTEN, "image '3' has two captions"),
    "another split": ({901: "x", 902: "y"}, WRITTEN, "(901, 902, ...) is among the 4 of references (1, 2, 3, ...)"),
    "an entry without id": ([{"caption": "x"}], WRITTEN, 'entry 0 needs an "image_id" and a "caption"'),
    "several captions": ({1: ["x", "y"]}, WRITTEN, "candidates: image 1 has several captions"),
    "no text": ({1: None}, WRITTEN, "candidates: image 1 has no caption"),
    "references without ids": (SAID, [["x"]], "has no image ids; give {id: [caption, ...]}"),
    "references that are no text": (SAID, {1: [3]}, "those of image 1 are not captions"),
    "a number": (5, WRITTEN, "candidates: not captions by image"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_sentence(name: str) -> None:
    said, written, message = WRONG[name]
    with pytest.raises(CaptionkitError) as caught:
        captionkit.evaluate(said, written, FEW)
    assert message in str(caught.value) and "\n" not in str(caught.value)


FILES = {
    "absent.json": (None, "absent.json: cannot be read (No such file or directory)"),
    "r.txt": ("x", "r.txt: unknown kind of results file"),
    "cut.json": ('[{"image_id": 1, "cap', "cut.json, line 1, column"),
    "list.json": ('["a dog"]', "list.json: a list of captions has no image ids"),
    "swapped.json": (json.dumps(coco(WRITTEN)), "swapped.json: these are references, not results"),
    "twice.json": ('{"1": "a", "1": "b"}', "twice.json: '1' stands twice in one object"),
    "columns.csv": ("image,words\n1,a dog\n", "columns.csv, line 1: the header names no image_id"),
    "quotes.csv": ('image_id,caption\n1,"a"dog"\n', "quotes.csv, line 2: not valid CSV"),
    "hole.csv": ("image_id,caption\n,a dog\n", "hole.csv, line 2: names no image"),
    "line.jsonl": ('{"image_id": 1, "caption": "a dog"}\n{"image": 2}\n', "line.jsonl, line 2: entry 0 needs an"),
    "single.json": ('{"image_id": 1, "caption": "a"}', "single.json: not captions by image"),
    "wrapped.json": ('{"results": {"a": 1}}', "wrapped.json: not captions by image"),
    "short.csv": ("image_id,caption\n1\n", "short.csv, line 2: has 1 fields, but the header 2"),
    "wide.csv": ("caption,image_id\na dog, running,1\n", "wide.csv, line 2: has 3 fields, but the header 2"),
    "blank.csv": ("image_id,caption\n  ,a dog\n", "blank.csv, line 2: names no image"),
    "object.jsonl": ('{"path": "1.jpg", "captions": {"text": "a"}}\n', 'object.jsonl, line 1: its "captions" are not'),
    "five.jsonl": ('{"path": "1.jpg", "captions": 5}\n', 'five.jsonl, line 1: its "captions" are not'),
    "latin.csv": (b"image_id,caption\n1,caf\xe9\n", "latin.csv, line 2: not UTF-8 text"),
}


@pytest.mark.parametrize("name", FILES)
def test_wrong_files_are_named(tmp_path: Path, references: Path, name: str, capsys) -> None:
    content, message = FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run("score", references, tmp_path / name) == 1
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1


def test_unknown_names_are_told_with_the_nearest() -> None:
    with pytest.raises(CaptionkitError, match=r"metric 'cidre' is unknown; did you mean 'cider'"):
        captionkit.evaluate(SAID, WRITTEN, ["cidre"])
    with pytest.raises(CaptionkitError, match="give a list of names"):
        captionkit.evaluate(SAID, WRITTEN, "bleu")
    with pytest.raises(CaptionkitError, match="tokenizer 'moses' is unknown; there are ptb, words"):
        captionkit.evaluate(SAID, WRITTEN, tokenizer="moses")


# --- what is answered ---


def test_scores_are_a_mapping_with_scores_of_each_image(usual: captionkit.Scores) -> None:
    assert list(usual) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"]
    assert usual["CIDEr-D"] == pytest.approx(usual.per_image["CIDEr-D"].mean())
    for name, (low, high) in usual.intervals.items():
        assert low <= usual[name] <= high
    assert usual.variety is None and "distinct" not in usual.to_dict()
    assert "CIDEr-D" in str(usual) and "4 images, ptb tokens" in str(usual)


def test_the_usual_metrics_and_what_json_holds() -> None:
    scores = captionkit.evaluate(SAID, WRITTEN, training=["A bus!", "something else"])
    made = json.loads(json.dumps(scores.to_dict()))
    assert made["images"] == 4 and made["distinct"] == 1.0 and made["novel"] == 0.75 and made["tokenizer"] == "ptb"
    assert {"BLEU-4", "ROUGE-L", "CIDEr-D", "intervals", "notes", "without references", "seed"} <= set(made)
    assert ("METEOR" in made) != any("METEOR is left out" in note for note in made["notes"])


def test_saved_frequencies_make_scores_independent_of_the_company(tmp_path: Path) -> None:
    corpus = DocumentFrequencies.of([[tokenize(text) for text in some] for some in WRITTEN.values()])
    both = captionkit.evaluate(SAID, WRITTEN, ["cider"], frequencies=corpus)
    one = captionkit.evaluate({2: SAID[2]}, {2: WRITTEN[2]}, ["cider"], frequencies=corpus)
    assert one["CIDEr-D"] == both.per_image["CIDEr-D"][1]
    alone = captionkit.evaluate({2: SAID[2]}, {2: WRITTEN[2]}, ["cider"])
    assert alone["CIDEr-D"] == 0 and any("of one image alone it is always 0" in note for note in alone.notes)


def test_a_metric_object_is_taken_and_starts_afresh() -> None:
    metric = CiderD()
    first, second = (captionkit.evaluate(SAID, WRITTEN, [metric]) for _ in range(2))
    assert dict(first) == dict(second) and len(second.per_image["CIDEr-D"]) == 4


def test_chinese_is_scored_by_characters() -> None:
    written = {1: ["一只狗在草地上跑", "狗在跑"], 2: ["两个人在海边", "海边有人"]}
    scores = captionkit.evaluate({1: "一只狗在跑", 2: "一个人在海边"}, written, FEW)
    assert scores.facts["tokenizer"] == "words" and 0.3 < scores["BLEU-1"] < 1 and scores["CIDEr-D"] > 0.5


def test_collapse_and_stale_captions_are_noted() -> None:
    written = {n: [f"image number {n}"] for n in range(20)}
    scores = captionkit.evaluate(dict.fromkeys(written, "the same"), written)
    assert any("one caption is given to 20 images (100%)" in note for note in scores.notes)


def test_comparing_two_systems() -> None:
    generator = np.random.default_rng(0)
    written = {n: [f"a dog number {n} runs on green grass", f"dog {n} is running"] for n in range(60)}
    good = {n: f"a dog number {n} runs" for n in written}
    worse = {n: (text if generator.random() < 0.5 else "a cat sleeps") for n, text in good.items()}
    one, other = (captionkit.evaluate(said, written, ["bleu", "cider"]) for said in (good, worse))
    compared = one.compare(other)
    row = {d.name: d for d in compared.differences}["CIDEr-D"]
    assert row.difference == pytest.approx(one["CIDEr-D"] - other["CIDEr-D"])
    assert 0 < row.low < row.difference < row.high and row.p < 0.01
    assert "BLEU-4" in str(compared) and compared.to_dict()["CIDEr-D"]["p"] == row.p
    same = one.compare(one)
    assert all(d.p == 1 and d.low == d.high == 0 for d in same.differences)
    part = captionkit.evaluate({n: worse[n] for n in range(10)}, written, ["cider"])
    with pytest.raises(CaptionkitError, match="scored on different images"):
        one.compare(part)
    for options in ({"metrics": ["rouge"]}, {"metrics": ["cider"], "resamples": 0}):
        alike = captionkit.evaluate(good, written, **options)
        with pytest.raises(CaptionkitError, match="nothing to compare by"):
            alike.compare(one) if "resamples" in options else one.compare(alike)


# --- the command ---


def test_score_prints_a_table(references: Path, candidates: Path, capsys) -> None:
    assert run("score", references, candidates) == 0
    out, _ = capsys.readouterr()
    assert "CIDEr-D" in out and "95 % intervals of 1,000 resamples" in out and "100.0% distinct" in out


def test_score_json_per_image_and_compare(tmp_path: Path, references: Path, candidates: Path, capsys) -> None:
    other = write(tmp_path / "other.json", results({**SAID, 1: "nothing like it", 99: "x"}))
    images = tmp_path / "images.csv"
    arguments = ("--metrics", "bleu,cider", "--json", "--per-image", images, "--compare", other, "--resamples", 50)
    assert run("score", references, candidates, *arguments) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["comparison"]["images"] == 4 and made["comparison"]["BLEU-1"]["difference"] > 0
    assert "ROUGE-L" not in made and made["resamples"] == 50
    rows = list(csv.DictReader(images.open(encoding="utf-8")))
    assert [row["image_id"] for row in rows] == ["1", "2", "3", "4"] and rows[0]["caption"] == SAID[1]
    assert np.mean([float(row["CIDEr-D"]) for row in rows]) == pytest.approx(made["CIDEr-D"], abs=1e-5)


def test_score_takes_frequencies_and_training_captions(tmp_path: Path, references: Path, candidates: Path, capsys):
    corpus = DocumentFrequencies.of([[tokenize(text) for text in some] for some in WRITTEN.values()])
    corpus.save(tmp_path / "df.npz")
    found = []
    for source in (tmp_path / "df.npz", references):
        options = ("--metrics", "cider,diversity", "--frequencies", source, "--training", references, "--json")
        assert run("score", references, candidates, *options) == 0
        found.append(json.loads(capsys.readouterr().out))
    plain = captionkit.evaluate(SAID, WRITTEN, ["cider"])
    assert found[0]["CIDEr-D"] == found[1]["CIDEr-D"] == pytest.approx(plain["CIDEr-D"])
    assert found[0]["novel"] == 0.75  # one candidate is word for word a training caption


def test_score_tells_what_is_left_out(tmp_path: Path, references: Path, capsys) -> None:
    file = write(tmp_path / "part.json", results({1: SAID[1], 3: SAID[3], 50: "x"}))
    assert run("score", references, file, "--metrics", "rouge") == 0
    out, err = capsys.readouterr()
    assert "2 images" in out and "50" in err and "2 of 4 images with references have no candidate" in err
    assert run("score", references, write(tmp_path / "other.json", results({900: "x"}))) == 1
    assert "are they of another split?" in capsys.readouterr().err


# --- what went wrong once ---


def test_a_stray_candidate_does_not_move_all_others_to_their_neighbours(tmp_path: Path) -> None:
    written = {n: [f"the image with number {n}"] for n in range(1, 40)}
    file = write(tmp_path / "captions_val.json", coco(written, {n: f"{n + 1:012}.jpg" for n in written}))
    said = {n: written[n][0] for n in range(2, 40)} | {40: "a stray one"}
    scores = captionkit.evaluate(said, file, FEW)
    assert scores["BLEU-1"] == pytest.approx(1) and scores.without_references == [40]


def test_comparing_files_that_cover_different_images_is_done_on_the_common_ones(
    tmp_path: Path, references: Path, candidates: Path, capsys
) -> None:
    half = write(tmp_path / "half.json", results({k: SAID[k] for k in (1, 2)}))
    assert run("score", references, candidates, "--metrics", "cider,bleu", "--compare", half, "--json") == 0
    out, err = capsys.readouterr()
    compared = json.loads(out)["comparison"]
    assert compared["images"] == 2 and all(v["difference"] == 0 for k, v in compared.items() if k != "images")
    assert "half.json: 2 of 4 images with references have no candidate" in err


def test_swapped_arguments_are_told_so(references: Path, candidates: Path, capsys) -> None:
    assert run("score", candidates, references) == 1
    err = capsys.readouterr().err
    assert "these are results, not references" in err and len(err.splitlines()) == 1
    assert run("score", references, references.parent) == 1
    assert "is a folder; name the results file" in capsys.readouterr().err


_SIDE = {"a/1": SAID[1], "a/2": SAID[2], "b/1": SAID[3]}
_BY_PATH = {"a/1": WRITTEN[1], "a/2": WRITTEN[2], "b/1": WRITTEN[3]}


def _texts(root: Path, captions: dict[str, list[str]], suffix: str, images: str = "") -> Path:
    """A file of captions for each image, beside an empty image file if `images` names its suffix."""
    for name, some in captions.items():
        path = root / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{text}\n" for text in some), encoding="utf-8")
        if images:
            (root / f"{name}{images}").touch()
    return root


def _metadata(root: Path, captions: dict[str, list[str]]) -> Path:
    root.mkdir()
    rows = [json.dumps({"file_name": f"{name}.jpg", "text": some}) for name, some in captions.items()]
    (root / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return root


@pytest.mark.parametrize("candidate", [".txt", ".jpg.txt", ".caption", ".txt beside images", "metadata.jsonl"])
@pytest.mark.parametrize("reference", [".txt", ".caption beside images", "metadata.jsonl"])
def test_folders_with_the_captions_of_each_image(tmp_path: Path, candidate: str, reference: str) -> None:
    def kept(name: str, kind: str, captions: dict[str, list[str]]) -> Path:
        suffix, _, images = kind.partition(" beside ")
        if suffix == "metadata.jsonl":
            return _metadata(tmp_path / name, captions)
        return _texts(tmp_path / name, captions, suffix, images and ".jpg")

    wrote, said = kept("wrote", reference, _BY_PATH), kept("said", candidate, {k: [v] for k, v in _SIDE.items()})
    found = captionkit.evaluate(str(said), str(wrote), FEW)
    assert dict(found) == pytest.approx(dict(captionkit.evaluate(_SIDE, _BY_PATH, FEW)))
    assert len(found.ids) == 3 and found.notes == []  # a/1 and b/1 were told apart


def test_an_image_of_a_folder_without_a_candidate_is_named(tmp_path: Path, capsys) -> None:
    wrote = _texts(tmp_path / "wrote", _BY_PATH, ".txt", ".jpg")
    said = _texts(tmp_path / "said", {"a/1": [SAID[1]], "b/1": []}, ".txt")
    (said / "README.txt").write_text("made on Monday\nby hand\n")
    assert run("score", wrote, said, "--metrics", "rouge") == 0
    assert (
        "2 of 3 images with references have no candidate and are left out: a/2.jpg, b/1.jpg" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a dog\na cat\n", "image 'a/2.txt' has several captions"),
        (b"0 0.5 0.5 0.1 0.1\n", "a/2.txt: malformed caption (numbers, such as boxes of objects"),
        (b"\xff\xfe\xfd", "a/2.txt: malformed caption (not UTF-8 text"),
    ],
)
def test_a_text_file_that_is_no_candidate(tmp_path: Path, content: bytes, message: str, capsys) -> None:
    wrote = _texts(tmp_path / "wrote", _BY_PATH, ".txt")
    said = _texts(tmp_path / "said", {name: [text] for name, text in _SIDE.items()}, ".txt")
    (said / "a" / "2.txt").write_bytes(content)
    assert run("score", wrote, said, "--metrics", "rouge") == 1
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resamples", -5), "resamples is -5"),
        (("--resamples", 10**12), "use a whole number from 0 to 100,000"),
        (("--seed", -1), "seed is -1"),
        (("--metrics", ","), "no metric is named"),
        (("--metrics", ""), "no metric is named"),
        (("--per-image", "."), "is a folder"),
        (("--compare", "nope.json"), "nope.json: cannot be read"),
    ],
)
def test_wrong_options_are_one_line(references: Path, candidates: Path, arguments: tuple, message: str, capsys) -> None:
    assert run("score", references, candidates, *arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1


def test_training_captions_are_those_of_the_training_split(tmp_path: Path, references: Path, capsys) -> None:
    dataset = write(
        tmp_path / "dataset_both.json",
        {
            "images": [
                {"filename": f"{k}.jpg", "imgid": k, "split": split, "sentences": [{"raw": some[0]}]}
                for split, part in (("val", (1, 2)), ("train", (3, 4)))
                for k, some in WRITTEN.items()
                if k in part
            ]
        },
    )
    file = write(tmp_path / "human.json", results({k: WRITTEN[k][0] for k in (1, 2, 3)}))
    assert run("score", references, file, "--metrics", "diversity", "--training", dataset, "--json") == 0
    assert json.loads(capsys.readouterr().out)["novel"] == pytest.approx(2 / 3)


def test_frequencies_are_counted_in_the_tokens_that_are_compared(references: Path, candidates: Path, capsys) -> None:
    found = []
    for more in ((), ("--frequencies", references)):
        assert run("score", references, candidates, "--metrics", "cider", "--tokenizer", "words", "--json", *more) == 0
        found.append(json.loads(capsys.readouterr().out)["CIDEr-D"])
    assert found[0] == pytest.approx(found[1])


def test_numbers_out_of_numpy_are_numbers() -> None:
    said = {np.int64(k): v for k, v in SAID.items()}
    scores = captionkit.evaluate(said, {np.int64(k): v for k, v in WRITTEN.items()} | {np.int64(9): ["x"]}, FEW)
    assert json.dumps(scores.to_dict()) and not any("text on one side" in note for note in scores.notes)
    listed = [{"image_id": np.int64(k), "caption": v} for k, v in SAID.items()]
    assert dict(captionkit.evaluate(listed, WRITTEN, FEW)) == dict(captionkit.evaluate(SAID, WRITTEN, FEW))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["cider", CiderD()]}, "two of the metrics are called CIDEr-D"),
        ({"metrics": [CiderD]}, "is no metric"),
        ({"metrics": [3]}, "3 is no metric"),
        ({"training": "captions.txt"}, "'captions.txt' is text where captions are wanted"),
        ({"frequencies": "df.npz"}, "'df.npz' is text where DocumentFrequencies are wanted"),
        ({"split": "val"}, "there is no split 'val'; these have no splits"),
    ],
)
def test_wrong_arguments_are_told(options: dict, message: str) -> None:
    with pytest.raises(CaptionkitError) as caught:
        captionkit.evaluate(SAID, WRITTEN, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
