"""What is wrong in a dataset is named and counted and the rest read; what cannot be read ends in one clear error."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from test_datasets import coco, read_back, small_set, touch, write

from captionkit.data.layouts import Dataset, Problem, open_dataset, reading
from captionkit.errors import DatasetError


def kinds(dataset: Dataset) -> list[tuple[str, str]]:
    return [(problem.kind, problem.where) for problem in dataset.problems]


def kaggle(root: Path, *lines: str) -> Path:
    write(root / "captions.txt", "image,caption\n" + "".join(f"{line}\n" for line in lines))
    return root


# --- problems: one of each kind, and the rest goes on -----------------------------------------------------------------


def test_missing_image(tmp_path: Path) -> None:
    kaggle(tmp_path, "1.jpg,one", "gone.jpg,two", "gone.jpg,three", "2.jpg,four")
    touch(tmp_path / "Images", ["1.jpg", "2.jpg"])
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"all": {"1.jpg": ["one"], "2.jpg": ["four"]}}
    detail = "captions.txt: not in Images/, ./ (captions left out: 2)"
    assert dataset.problems == [Problem("missing image", "gone.jpg", detail)]


def test_a_folder_or_a_broken_link_is_no_image(tmp_path: Path) -> None:
    kaggle(tmp_path, "1.jpg,one", "2.jpg,two", "3.jpg,three", ",four")
    (tmp_path / "1.jpg").mkdir()
    (tmp_path / "2.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "3.jpg").symlink_to(tmp_path / "3.jpg")
    dataset = open_dataset(tmp_path)
    assert kinds(dataset) == [
        ("caption without image", "captions.txt, line 5"),
        *(("missing image", f"{i}.jpg") for i in (1, 2, 3)),
    ]
    with pytest.raises(DatasetError, match=r"no image of split 'all' can be used .*3 x missing image.*inspect"):
        dataset.split("all")


def test_no_name_of_an_image_breaks_the_reading(tmp_path: Path) -> None:
    names = ["", ".", "/", "a\0b.jpg", "x" * 5000 + "/1.jpg", "1.jpg/2.jpg", "\ud800.jpg", "http://host/1.jpg"]
    images = [{"id": i, "file_name": name} for i, name in enumerate([*names, "./1.jpg"])]
    write(tmp_path / "captions.json", json.dumps({"images": images, "annotations": []}))
    touch(tmp_path, ["1.jpg"])
    dataset = open_dataset(tmp_path)
    assert [e.id for e in dataset["all"]] == [len(names)]
    assert [problem.where for problem in dataset.problems] == names


def test_caption_without_image(tmp_path: Path) -> None:
    content = coco({"1.jpg": ["one"]})
    content["annotations"] += [{"image_id": 99, "caption": "orphan"}, {"image_id": 99, "caption": "another"}]
    write(tmp_path / "captions.json", content)
    touch(tmp_path, ["1.jpg"])
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"all": {"1.jpg": ["one"]}}
    assert dataset.problems == [
        Problem("caption without image", "image_id 99", f"captions.json: '{text}'") for text in ("orphan", "another")
    ]


@pytest.mark.parametrize("blank", ["", "  ", "\t", "\n", "\u3000"])
def test_empty_caption(blank: str, tmp_path: Path) -> None:
    write(tmp_path / "captions.json", coco({"1.jpg": ["one", blank, "two"], "2.jpg": [blank]}))
    touch(tmp_path, ["1.jpg", "2.jpg"])
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"all": {"1.jpg": ["one", "two"], "2.jpg": []}}
    assert kinds(dataset) == [
        ("empty caption", "1.jpg"),
        ("empty caption", "2.jpg"),
        ("image without caption", "2.jpg"),
    ]
    assert dataset.problems[0].detail == f"captions.json: caption 2 of 3 is {blank!a}"


def test_malformed_and_absent_captions(tmp_path: Path) -> None:
    values = [3, None, ["list"], {"a": 1}, True, "half \ud83d", "one"]
    write(tmp_path / "metadata.jsonl", json.dumps({"file_name": "1.jpg", "text": values}))
    touch(tmp_path, ["1.jpg"])
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"all": {"1.jpg": ["one"]}}
    malformed = ("malformed caption", "1.jpg")
    assert kinds(dataset) == [malformed, ("empty caption", "1.jpg"), malformed, malformed, malformed, malformed]


def test_duplicate_id(tmp_path: Path) -> None:
    content = coco({"1.jpg": ["one"], "2.jpg": ["two"]})
    content["images"].append({"id": 1, "file_name": "3.jpg"})
    write(tmp_path / "captions_train.json", content)
    write(tmp_path / "captions_train_more.json", coco({"2.jpg": ["zwei"], "4.jpg": ["vier"]}))
    touch(tmp_path, [f"{i}.jpg" for i in range(1, 5)])
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"train": {"1.jpg": ["one"], "2.jpg": ["two"], "4.jpg": ["vier"]}}
    assert dataset.problems == [
        Problem("duplicate id", "3.jpg", "captions_train.json: id 1 is 1.jpg already; this entry is left out"),
        Problem("duplicate id", "2.jpg", "captions_train_more.json: id 2 is 2.jpg already; this entry is left out"),
    ]


def test_duplicate_id_where_the_first_is_missing(tmp_path: Path) -> None:
    content = coco({"1.jpg": ["one"]})
    content["images"].append({"id": 1, "file_name": "3.jpg"})
    write(tmp_path / "captions.json", content)
    touch(tmp_path, ["3.jpg"])
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"all": {"3.jpg": ["one"]}}
    assert kinds(dataset) == [("missing image", "1.jpg")]


def test_duplicate_names_in_a_split_list(tmp_path: Path) -> None:
    write(tmp_path / "Flickr8k.token.txt", "1.jpg#0\tone\n")
    write(tmp_path / "train.txt", "1.jpg\n1.jpg\n")
    touch(tmp_path, ["1.jpg"])
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"train": {"1.jpg": ["one"]}}
    assert kinds(dataset) == [("duplicate id", "1.jpg")]


def test_a_key_that_a_seed_json_repeats_loses_no_caption(tmp_path: Path) -> None:
    write(tmp_path / "captions.json", '{"42": ["one"], "43": "three", "42": ["two"], "044": []}')
    touch(tmp_path / "image", ["000000000042.jpg", "000000000043.jpg", "000000000044.jpg"])
    dataset = open_dataset(tmp_path)
    assert [(e.id, e.captions) for e in dataset["all"]] == [(42, ("one", "two")), (43, ("three",)), (44, ())]
    assert kinds(dataset) == [("duplicate id", "42"), ("image without caption", "000000000044.jpg")]


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "a/../../secret.jpg", "..\\secret.jpg", "C:\\secret.jpg", "\\\\host\\1.jpg"]
)
def test_path_outside_the_root(name: str, tmp_path: Path) -> None:
    touch(tmp_path, ["secret.jpg", "set/1.jpg", "set/a/2.jpg"])
    root = kaggle(tmp_path / "set", "1.jpg,one", f"{name},two")
    dataset = open_dataset(root)
    assert read_back(dataset) == {"all": {"1.jpg": ["one"]}}
    assert kinds(dataset) == [("path outside the root", name)]
    assert dataset.problems[0].detail.startswith(f"captions.txt: write it relative to {root}")


def test_an_absolute_path_is_outside_the_root(tmp_path: Path) -> None:
    touch(tmp_path, ["secret.jpg", "set/1.jpg"])
    root = kaggle(tmp_path / "set", "1.jpg,one", f"{tmp_path}/secret.jpg,two")
    dataset = open_dataset(root)
    assert read_back(dataset) == {"all": {"1.jpg": ["one"]}}
    detail = f"captions.txt: write it relative to {root} (captions left out: 1)"
    assert dataset.problems == [Problem("path outside the root", f"{tmp_path}/secret.jpg", detail)]


@pytest.mark.parametrize("link", ["images/2.jpg", "images", "images/deep"])
def test_links_that_lie_in_the_root_are_followed_out_of_it(link: str, tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "set"
    touch(outside, ["2.jpg", "deep/2.jpg"])
    touch(root, ["1.jpg"])
    write(root / "list.csv", f"image,caption\n1.jpg,one\n{'deep/' if link.endswith('deep') else ''}2.jpg,two\n")
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to({"images/2.jpg": outside / "2.jpg"}.get(link, outside))
    dataset = open_dataset(root)
    assert (read_back(dataset), dataset.problems) == ({"all": {"1.jpg": ["one"], "2.jpg": ["two"]}}, [])
    assert all(example.image.is_relative_to(root) and example.image.is_file() for example in dataset["all"])


def test_links_inside_the_root_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "store", ["1.jpg"])
    (tmp_path / "images").symlink_to("store")
    (tmp_path / "2.jpg").symlink_to(tmp_path / "store" / "1.jpg")
    dataset = open_dataset(kaggle(tmp_path, "1.jpg,one", "2.jpg,two"))
    assert (read_back(dataset), dataset.problems) == ({"all": {"1.jpg": ["one"], "2.jpg": ["two"]}}, [])


def test_a_plain_folder_follows_links_once_and_names_files_it_did_not_read(tmp_path: Path) -> None:
    root = tmp_path / "set"
    touch(tmp_path / "outside", ["3.jpg", "deep/4.jpg"])
    touch(root, ["1.jpg", "sub/2.jpg"])
    write(root / "sub" / "list.csv", "neither,nor\n")
    (root / "3.jpg").symlink_to(tmp_path / "outside" / "3.jpg")
    (root / "more").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "round").symlink_to(root)
    (root / "again").symlink_to(root / "sub")
    (root / "sub" / "up").symlink_to("..")
    dataset = open_dataset(root)
    assert [e.id for e in dataset["all"]] == ["1.jpg", "3.jpg", "more/3.jpg", "more/deep/4.jpg", "sub/2.jpg"]
    linked = [("linked folder", name) for name in ("again", "more/round", "sub/up")]
    assert sorted(kinds(dataset)) == [*linked, ("unread file", "sub/list.csv")]


def test_a_folder_that_cannot_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, ["1.jpg", "closed/2.jpg"])
    scandir = os.scandir

    def scan(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    dataset = open_dataset(tmp_path)
    assert [e.id for e in dataset["all"]] == ["1.jpg"]
    assert dataset.problems == [Problem("unreadable folder", "closed", "Permission denied")]


def test_malformed_entries_of_a_coco_json(tmp_path: Path) -> None:
    content = coco({"1.jpg": ["one"]})
    content["images"] += [7, {"id": 2}, {"file_name": "2.jpg"}, {"id": None, "file_name": "2.jpg"}]
    content["annotations"] += ["text", {"caption": "no id"}, {"image_id": 1}, {"image_id": 1.5, "caption": "a"}]
    write(tmp_path / "captions.json", content)
    touch(tmp_path, ["1.jpg"])
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"all": {"1.jpg": ["one"]}}
    places = [f"captions.json: {part}[{i}]" for part in ("annotations", "images") for i in range(1, 5)]
    assert kinds(dataset) == [("malformed entry", place) for place in places]


def test_malformed_entries_of_a_karpathy_json(tmp_path: Path) -> None:
    images = [{"filename": "1.jpg", "sentences": [{"raw": "one"}, {"sentid": 2}, {"tokens": [3]}]}]
    images += [
        7,
        {"sentences": []},
        {"filename": "1.jpg", "sentences": [["text"]]},
        {"filename": "1.jpg", "sentences": {}},
    ]
    write(tmp_path / "dataset_x.json", {"images": images})
    touch(tmp_path, ["1.jpg"])
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"all": {"1.jpg": ["one"]}}
    malformed = [("malformed entry", f"dataset_x.json: images[{i}]") for i in range(1, 5)]
    assert kinds(dataset) == [("malformed caption", "1.jpg"), ("malformed caption", "1.jpg"), *malformed]


def test_malformed_rows(tmp_path: Path) -> None:
    text = "image,caption,split\n1.jpg,one,train\n1.jpg,two\n1.jpg,a,b,train\n,four,train\n"
    write(tmp_path / "a.csv", text)
    write(
        tmp_path / "b" / "metadata.jsonl",
        '{"file_name": "1.jpg", "text": "x"}\n[1]\n{"text": "x"}\n\n{"file_name": 3}\n',
    )
    write(tmp_path / "c" / "x.token", "1.jpg#0\tone\nno tab\n1.jpg\tno number\n")
    for folder in (".", "b", "c"):
        touch(tmp_path / folder, ["1.jpg"])
    dataset = open_dataset(tmp_path / "a.csv")
    assert read_back(dataset) == {"train": {"1.jpg": ["one"]}}
    assert dataset.problems == [
        Problem("malformed row", "a.csv, line 3", "2 fields where the header has 3"),
        Problem("malformed row", "a.csv, line 4", "4 fields where the header has 3"),
        Problem("caption without image", "a.csv, line 5", "'four'"),
    ]
    assert kinds(open_dataset(tmp_path / "b")) == [("malformed entry", f"metadata.jsonl, line {i}") for i in (2, 3, 5)]
    assert kinds(open_dataset(tmp_path / "c")) == [("malformed row", f"x.token, line {i}") for i in (2, 3)]


def test_images_in_no_split_list_and_lists_of_unknown_images(tmp_path: Path) -> None:
    """The real Flickr8k.token.txt has 92 of the first kind, and 2258277193_586949ec62.jpg.1."""
    write(tmp_path / "Flickr8k.token.txt", "1.jpg#0\tone\n2.jpg#0\ttwo\n2.jpg.1#0\todd\n")
    write(tmp_path / "Flickr_8k.trainImages.txt", "1.jpg\n3.jpg\n4.jpg\n")
    touch(tmp_path, ["1.jpg", "2.jpg", "3.jpg"])
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"train": {"1.jpg": ["one"], "3.jpg": []}}
    assert kinds(dataset) == [
        ("missing image", "4.jpg"),
        ("image in no split", "2.jpg"),
        ("image in no split", "2.jpg.1"),
        ("image without caption", "3.jpg"),
    ]


def test_a_split_none_of_whose_images_is_there(tmp_path: Path) -> None:
    write(tmp_path / "captions_train2017.json", coco({"1.jpg": ["one"]}))
    write(tmp_path / "captions_val2017.json", coco({"2.jpg": ["two"]}))
    touch(tmp_path / "val2017", ["2.jpg"])
    dataset = open_dataset(tmp_path)
    assert {name: len(examples) for name, examples in dataset.items()} == {"train": 0, "val": 1}
    assert len(dataset.split("val")) == 1
    with pytest.raises(DatasetError, match="no image of split 'train' can be used \\(1 x missing image\\)"):
        dataset.split("train")


# --- errors: one line, the file, the cause, the way out ---------------------------------------------------------------


def error_of(path: Path, layout: str | None = None) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, layout=layout)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None
    return message


def test_nothing_there(tmp_path: Path) -> None:
    assert error_of(tmp_path / "no").endswith("no: no such file or folder")


def test_nothing_known_lists_what_was_looked_for(tmp_path: Path) -> None:
    message = error_of(tmp_path)
    assert "it is empty" in message
    for words in (
        "captions_*.json",
        "dataset_*.json",
        "Flickr8k.token.txt",
        "captions.txt",
        "*.csv",
        "metadata.jsonl",
        "image/",
    ):
        assert words in message
    write(tmp_path / "notes.md", "hello")
    (tmp_path / "sub").mkdir()
    assert "it holds 'notes.md', 'sub/'" in error_of(tmp_path)
    assert "neither its name nor its beginning" in error_of(tmp_path / "notes.md")


def test_unknown_layout_gives_the_nearest(tmp_path: Path) -> None:
    assert "layout 'cocoo' is unknown; did you mean 'coco'?" in error_of(tmp_path, "cocoo")
    assert "layout 'Karpathi' is unknown; did you mean 'karpathy'?" in error_of(tmp_path, "Karpathi")
    assert "layout 'zzz' is unknown; there are karpathy," in error_of(tmp_path, "zzz")


def test_a_forced_layout_that_does_not_fit(tmp_path: Path) -> None:
    kaggle(tmp_path, "1.jpg,one")
    assert "not in the layout 'coco' (it holds 'captions.txt'); looked for captions_*.json" in error_of(
        tmp_path, "coco"
    )
    write(tmp_path / "x.json", {"a": 1})
    assert "x.json: not COCO captions JSON" in error_of(tmp_path / "x.json", "coco")
    assert "x.json: not a Karpathy dataset JSON" in error_of(tmp_path / "x.json", "karpathy")
    assert "x.json, line 1: the header names no image" in error_of(tmp_path / "x.json", "csv")
    assert "names no image" in error_of(tmp_path / "x.json", "folder")
    write(tmp_path / "x.json", "7")
    assert "x.json: neither COCO captions JSON" in error_of(tmp_path / "x.json", "seed")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("captions.json", '{"images": [\n{"id": 1,}]}', "captions.json, line 2, column "),
        ("captions.json", '{"images": [{"id": 1, "file_name": "1.jp', "captions.json, line 1, column "),
        ("captions.json", '{"images": ' + "[" * 200_000, "captions.json: not JSON that can be read"),
        ("captions.json", '{"images": [' + "1" * 5000 + "]}", "captions.json: not JSON that can be read"),
        ("captions.json", '{"images": {}, "annotations": []}', "captions.json: not COCO captions JSON"),
        ("captions.json", '{"images": [], "annotations": {}}', 'captions.json: "annotations" is not a list'),
        ("captions.json", '{"images": [], "annotations": []}', "names no image"),
        ("any.json", '{"half', "any.json, line 1, column "),
        ("dataset_x.json", '{"images": [{"sentences": []}\n', "dataset_x.json, line 2, column "),
        ("metadata.jsonl", '{"file_name": "1.jpg"}\n\n{"file_name": \n', "metadata.jsonl, line 3, column "),
        ("list.csv", 'image,caption\n1.jpg,"one"\n1.jpg,"two" three\n', "list.csv, line 3: not valid CSV"),
        ("list.csv", 'image,caption\n1.jpg,one\n1.jpg,"never\nclosed\n', "list.csv, line 3: not valid CSV"),
        ("list.csv", "image,caption\n", "names no image"),
        ("list.csv", "image,caption\n" + "1.jpg," + "x" * 200_000, "list.csv, line 2: not valid CSV"),
    ],
)
def test_malformed_files_name_the_line(file: str, text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / file, text)
    assert message in error_of(tmp_path / file)


@pytest.mark.parametrize("name", ["captions.txt", "a.csv", "x.token", "captions.json", "metadata.jsonl"])
def test_another_encoding_names_the_line(name: str, tmp_path: Path) -> None:
    """Latin-1, behind a UTF-8 mark too; UTF-16 without its mark; UTF-16 cut off."""
    text = {
        "captions.txt": "image,caption\n1.jpg,one\n1.jpg,schön\n",
        "a.csv": "image,caption\n1.jpg,one\n1.jpg,schön\n",
        "x.token": "1.jpg#0\tone\n1.jpg#1\ttwo\n1.jpg#2\tschön\n",
        "captions.json": '{"images":\n[],\n"schön": 1}',
        "metadata.jsonl": '{"file_name": "1.jpg"}\n{}\n{"text": "schön"}\n',
    }[name]
    for data in (text.encode("latin-1"), b"\xef\xbb\xbf" + text.encode("latin-1")):
        (tmp_path / name).write_bytes(data)
        assert f"{name}, line 3: not UTF-8 text (byte 0xf6" in error_of(tmp_path / name)
    (tmp_path / name).write_bytes(text.replace("ö", "o").encode("utf-16-le"))
    assert f"{name}, line 1: not UTF-8 text (it holds a NUL)" in error_of(tmp_path / name)
    (tmp_path / name).write_bytes(text.encode("utf-16")[:-1])
    assert "not UTF-8 text" in error_of(tmp_path / name)


def test_the_size_of_a_file_is_bounded_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "captions.json", coco({"1.jpg": ["one"]}))
    with (tmp_path / "captions.json").open("r+b") as file:
        file.truncate(reading.MAX_BYTES + 1)  # sparse: nothing is written
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it was read"))
    assert "captions.json: 1,024.0 MiB, but a caption file may have 1,024.0 MiB" in error_of(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kaggle(tmp_path, "1.jpg,one")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert error_of(tmp_path).endswith("captions.txt: cannot be read (Permission denied); check its permissions")


def test_an_empty_set_cannot_be_parted() -> None:
    with pytest.raises(DatasetError, match="of 0 images"):
        small_set(0).split_off(0.5, seed=0)
