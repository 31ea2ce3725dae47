"""Datasets as people have them: captions beside images, JSON of many forms, spreadsheets, odd paths and folders."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from test_datasets import coco, read_back, touch, write

from captionkit.data.layouts import inspect_dataset, open_dataset
from captionkit.errors import DatasetError
from captionkit.metrics.caption_files import read_references

TWO = {"1.jpg": ["a dog", "dog runs"], "2.jpg": ["a cat"]}


def problems(root: Path) -> dict[str, str]:
    return {f"{p.kind}: {p.where}": p.detail for p in inspect_dataset(open_dataset(root)).problems}


# --- captions beside images ---


@pytest.mark.parametrize("name", ["{}.txt", "{}.caption", "{}.TXT", "{}.jpg.txt"])
def test_captions_beside_images_in_a_folder(tmp_path: Path, name: str) -> None:
    for split in ("train", "val"):
        touch(tmp_path / split, TWO)
        for image, texts in TWO.items():
            write(tmp_path / split / name.format(image[:-4]), "\ufeff" + "\r\n\n".join(texts) + "\n")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.problems) == ("folder", [])
    assert read_back(dataset) == {"train": TWO, "val": TWO}


def test_captions_beside_images_are_those_of_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    members = {
        "1.jpg": "x",
        "1.caption": "a dog\ndog runs",
        "2.jpg": "x",
        "2.json": '{"caption": "a cat"}',
        "2.txt": "x",
    }
    (tmp_path / "tar").mkdir()
    with tarfile.open(tmp_path / "tar" / "train-0.tar", "w") as archive:
        for name, text in members.items():
            write(tmp_path / "folder" / name, text)
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    assert read_back(open_dataset(tmp_path / "tar")) == {"train": TWO}
    assert read_back(open_dataset(tmp_path / "folder")) == {"all": TWO}


def test_what_beside_images_is_no_caption_is_named(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg"])
    texts = {"1.txt": b"a dog", "2.txt": b"0 0.5 0.5 0.2 0.3\n", "3.txt": b"caf\xe9", "4.json": b"{", "9.txt": b"a cat"}
    texts |= {"5.txt": b"x" * ((1 << 20) + 1), "readme.txt": b"about these images"}
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
    found = problems(tmp_path)
    assert "numbers, such as boxes" in found["malformed caption: 2.txt"]
    assert (
        "not UTF-8 text" in found["malformed caption: 3.txt"] and "not valid JSON" in found["malformed caption: 4.json"]
    )
    assert "1,048,577 bytes" in found["malformed caption: 5.txt"] and "caption without image: 9.txt" in found
    assert {name: texts for name, texts in read_back(open_dataset(tmp_path))["all"].items() if texts} == {
        "1.jpg": ["a dog"]
    }
    assert not any("readme" in name for name in found) and "image without caption: 6.jpg" in found


# --- tables ---

TABLES: dict[str, tuple[str, str]] = {
    "no header": ("captions.txt", "1.jpg,a dog\n1.jpg,dog runs\n2.jpg,a cat\n"),
    "no header, tabs": ("captions.txt", "1.jpg\ta dog\n1.jpg\tdog runs\n2.jpg\ta cat\n"),
    "no header, numbers": ("captions.txt", "1.jpg#0\ta dog\n1.jpg#1\tdog runs\n2.jpg#0\ta cat\n"),
    "no header, columns": ("captions.csv", '1.jpg,0,a dog\n1.jpg,1,"dog runs"\n2.jpg,0,a cat\n'),
    "no header, spaces": ("captions.txt", "1.jpg a dog\n1.jpg dog runs\n2.jpg a cat\n"),
    "no header, bars": ("results.txt", "1.jpg| 0| a dog\n1.jpg| 1| dog runs\n2.jpg| 0| a cat\n"),
    "Excel's hint": ("list.csv", "sep=;\r\nimage;caption\r\n1.jpg;a dog\r\n1.jpg;dog runs\r\n2.jpg;a cat\r\n"),
    "printed lists": ("list.csv", "image,caption\n1.jpg,\"['a dog', 'dog runs']\"\n2.jpg,['a cat']\n"),
    "index of pandas": ("list.csv", ",image,caption\n0,1.jpg,a dog\n1,1.jpg,dog runs\n2,2.jpg,a cat\n"),
    "ids": ("list.csv", "image_id,caption\n1.0,a dog\n1.0,dog runs\n2.0,a cat\n"),
    "more columns": ("metadata.csv", "image_file_name,w,text\n1.jpg,3,a dog\n1.jpg,3,dog runs\n2.jpg,3,a cat\n"),
    "lines in quotes": ("list.csv", 'image,caption\r\n1.jpg,"a\r\ndog"\r\n1.jpg,dog runs\r\n2.jpg,a cat\r\n'),
}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("case", TABLES)
def test_tables(tmp_path: Path, case: str, encoding: str) -> None:
    name, text = TABLES[case]
    touch(tmp_path, TWO)
    (tmp_path / name).write_bytes(text.encode(encoding))
    dataset = open_dataset(tmp_path)
    assert (read_back(dataset), dataset.problems) == ({"all": TWO}, [])


# --- JSON ---

LISTED = [{"image": name, "caption": texts} for name, texts in TWO.items()]
EACH = [{"file_name": name, "text": text, "image_id": 7} for name, texts in TWO.items() for text in texts]
JSON: dict[str, object] = {
    "BLIP": LISTED,
    "an entry a caption": EACH,
    "by file": TWO,
    "by number": {"1": TWO["1.jpg"], "2": "a cat"},
    "as pycocoevalcap": {"1": [{"caption": text} for text in TWO["1.jpg"]], "2": [{"caption": "a cat"}]},
    "in an object": {"info": {"year": 2020}, "data": LISTED},
    "printed lists": [{"image": "1.jpg", "caption": "['a dog', 'dog runs']"}, {"image": "2.jpg", "caption": "a cat"}],
    "annotations with files": {"annotations": [{"file_name": row["file_name"], "text": row["text"]} for row in EACH]},
    "images with captions": {"images": [{"file_name": name, "captions": texts} for name, texts in TWO.items()]},
    "annotations alone": {"annotations": coco(TWO)["annotations"]},
    "images of Hugging Face": [{"image": {"path": name, "bytes": None}, "text": texts} for name, texts in TWO.items()],
}


@pytest.mark.parametrize("form", ["file", "lines", "indented"])
@pytest.mark.parametrize("case", JSON)
def test_json(tmp_path: Path, case: str, form: str) -> None:
    content = JSON[case]
    touch(tmp_path, TWO)
    if form == "lines" and isinstance(content, list):
        write(tmp_path / "things.jsonl", "".join(json.dumps(row) + "\n" for row in content))
    else:
        write(tmp_path / "things.json", content if form == "indented" else json.dumps(content))
    dataset = open_dataset(tmp_path)
    assert (read_back(dataset), dataset.problems) == ({"all": TWO}, [])


def test_json_by_split_and_pointed_at(tmp_path: Path) -> None:
    touch(tmp_path, TWO)
    file = write(tmp_path / "things.json", {"train": LISTED[:1], "validation": LISTED[1:]})
    assert read_back(open_dataset(tmp_path)) == {"train": {"1.jpg": TWO["1.jpg"]}, "val": {"2.jpg": TWO["2.jpg"]}}
    assert [image.split for image in read_references(file).images] == ["train", "val"]
    listed = [{"image_id": 1, "caption": text} for text in TWO["1.jpg"]]
    annotations = write(tmp_path / "list.json", [*listed, {"image_id": 2, "caption": "a cat"}])
    assert read_back(open_dataset(annotations)) == {"all": TWO}
    assert [image.captions for image in read_references(annotations).images] == [("a dog", "dog runs"), ("a cat",)]


def test_karpathy_sentences_with_tokens_alone_and_as_texts(tmp_path: Path) -> None:
    touch(tmp_path, TWO)
    images = [
        {"filename": "1.jpg", "split": "train", "sentences": [{"tokens": ["a", "dog"]}, {"tokens": ["dog", "runs"]}]},
        {"filename": "2.jpg", "split": "train", "sentences": ["a cat"], "cocoid": 2.0},
    ]
    write(tmp_path / "dataset_x.json", {"images": images})
    dataset = open_dataset(tmp_path)
    assert (read_back(dataset), dataset.problems) == ({"train": TWO}, []) and dataset["train"][1].id == 2


def test_other_json_is_not_taken_for_captions(tmp_path: Path) -> None:
    touch(tmp_path, TWO)
    for name, content in {
        "package.json": {"name": "x", "version": "1"},
        "llava.json": [{"id": 1, "image": "1.jpg", "conversations": [{"from": "human", "value": "what?"}]}],
        "results.json": [{"image_id": 1, "caption": "a dog"}],
    }.items():
        write(tmp_path / name, content)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "folder"
    assert [(p.kind, p.where) for p in dataset.problems] == [
        ("unread file", name) for name in ("llava.json", "package.json", "results.json")
    ]


# --- what is not read is named, with the way out ---

UNREAD = {
    "train.parquet": "read_parquet('train.parquet').to_csv('captions.csv'",
    "captions.xlsx": "save it as CSV (UTF-8)",
    "captions.json.gz": "unpack it",
    "annotations.zip": "unpack it",
    "captions.xml": "write its captions as CSV",
}


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("beside", [True, False])
def test_files_that_are_not_read_are_named(tmp_path: Path, name: str, beside: bool) -> None:
    touch(tmp_path, TWO)
    (tmp_path / name).write_bytes(b"PAR1")
    assert UNREAD[name] in problems(tmp_path)[f"unread file: {name}"]
    with pytest.raises(DatasetError, match=r"is not read; ") as caught:
        open_dataset(tmp_path / name)
    assert UNREAD[name] in str(caught.value) and "\n" not in str(caught.value)
    write(tmp_path / "list.csv", "image,caption\n1.jpg,a dog\n")
    assert UNREAD[name] in problems(tmp_path)[f"unread file: {name}"]
    for path in (*tmp_path.glob("*.jpg"), tmp_path / "list.csv"):
        path.unlink()
    with pytest.raises(DatasetError, match="no captions that can be read") as caught:
        open_dataset(tmp_path)
    assert UNREAD[name] in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"[]", mtime=0), "is packed by gzip; unpack it"),
        (b"PK\x03\x04xx", "is a ZIP archive or a spreadsheet"),
        (b"PAR1xx", "is a Parquet file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n",
            "is only the pointer to a file in Git LFS",
        ),
    ],
)
def test_what_lies_under_another_name_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    for name, layout in (("captions.json", "coco"), ("list.csv", "csv")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            open_dataset(tmp_path / name, layout=layout)


# --- where images are ---


def named(stated: str, there: str) -> Callable[[Path], dict[str, list[str]]]:
    def make(root: Path) -> dict[str, list[str]]:
        touch(root, [there])
        write(root / "captions.json", coco({"1.jpg": ["a dog"]}) | {"images": [{"id": 1, "file_name": stated}]})
        return read_back(open_dataset(root))["all"]

    return make


@pytest.mark.parametrize(
    ("stated", "there"),
    [
        ("{root}/images/1.jpg", "images/1.jpg"),
        ("{root}/a/../images/1.jpg", "images/1.jpg"),
        ("a/../images/1.jpg", "images/1.jpg"),
        ("set/images/1.jpg", "images/1.jpg"),
        ("images\\1.jpg", "images/1.jpg"),
        ("1.jpg", "1.JPG"),
        ("IMG/One.jpeg", "img/one.JPEG"),
        ("1", "1.jpg"),
        ("1", "000000000001.jpg"),
        ("000000000001", "images/COCO_val2014_000000000001.jpg"),
        ("1.jpg", "train_images/1.jpg"),
        ("1.jpg", "images/val-images/1.jpg"),
        ("1.jpg", "train/1.jpg"),
        ("1.jpg", "TestSet/1.jpg"),
    ],
)
def test_images_are_found(tmp_path: Path, stated: str, there: str) -> None:
    root = tmp_path / "set"
    found = named(stated.format(root=root), there)(root)
    assert found == {Path(there).name: ["a dog"]}


@pytest.mark.parametrize(
    ("stated", "there", "hint"),
    [
        ("1.jpg", "my things/deep/1.jpg", "there is 'my things/deep/1.jpg'"),
        ("1.jpg", "1.png", "there is '1.png'"),
        ("/home/x/set/1.jpg", "images/1.jpg", "there is 'images/1.jpg'"),
        ("https://host/1.jpg", "x.jpg", "it is a web address: download it"),
        ("../../1.jpg", "x.jpg", "write it relative to"),
    ],
)
def test_images_that_are_not_found_are_hinted_at(tmp_path: Path, stated: str, there: str, hint: str) -> None:
    root = tmp_path / "a" / "set"
    touch(tmp_path, ["1.jpg"])
    touch(root, ["2.jpg"])
    assert named(stated, there)(root) == {}
    (problem,) = open_dataset(root).problems
    assert hint in problem.detail and problem.where == stated


def test_an_image_of_two_splits_is_not_guessed(tmp_path: Path) -> None:
    touch(tmp_path, ["train/1.jpg", "val/1.jpg", "val/2.jpg"])
    write(tmp_path / "captions.csv", "image,caption\n1.jpg,a dog\n2.jpg,a cat\n")
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"all": {"2.jpg": ["a cat"]}}
    assert "there is 'train/1.jpg', 'val/1.jpg'" in dataset.problems[0].detail


def test_paths_that_climb_from_the_caption_files_folder(tmp_path: Path) -> None:
    touch(tmp_path / "set", ["images/1.jpg"])
    touch(tmp_path, ["1.jpg"])
    images = [{"id": 1, "file_name": "../images/1.jpg"}, {"id": 2, "file_name": "../../1.jpg"}]
    write(tmp_path / "set" / "annotations" / "captions.json", {"images": images, "annotations": []})
    dataset = open_dataset(tmp_path / "set")
    assert [e.id for e in dataset["all"]] == [1] and [p.kind for p in dataset.problems] == ["path outside the root"]


# --- missing values ---


@pytest.mark.parametrize("value", ["nan", "NaN", "None", "null", "<NA>", "N/A", "#N/A", float("nan"), None])
def test_missing_values_are_problems_and_not_learnt(tmp_path: Path, value: object) -> None:
    write(tmp_path / "captions.json", coco({"1.jpg": ["a dog", value], "2.jpg": ["nanna has none"]}))
    touch(tmp_path, TWO)
    dataset = open_dataset(tmp_path)
    assert read_back(dataset) == {"all": {"1.jpg": ["a dog"], "2.jpg": ["nanna has none"]}}
    assert [(p.kind, p.where) for p in dataset.problems] == [("empty caption", "1.jpg")]
    assert [image.captions for image in read_references(tmp_path).images] == [("a dog",), ("nanna has none",)]
