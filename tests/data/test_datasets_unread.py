"""Captions that lie where, or are called as, none are looked for: named, and never passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_datasets import read_back, touch, write

import captionkit
from captionkit.data.layouts import open_dataset
from captionkit.errors import DatasetError
from captionkit.metrics.caption_files import read_candidates


def problems(root: Path) -> list[tuple[str, str]]:
    return [(problem.kind, problem.where) for problem in open_dataset(root).problems]


def test_texts_in_another_folder_than_their_images_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "images", ["1.jpg", "2.jpg"])
    for name, text in (("captions/1.txt", "a dog"), ("captions/2.txt", "a cat"), ("labels/1.txt", "0 0.5 0.5 1 1")):
        write(tmp_path / name, text)
    assert problems(tmp_path) == [("unread file", "captions/1.txt")]


def test_a_caption_file_without_its_image_is_named(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    write(tmp_path / "2.caption", "a cat")
    assert problems(tmp_path) == [("caption without image", "2.caption")]


@pytest.mark.parametrize("folder", ["data", "default/train"])
def test_tables_that_are_not_read_are_named_at_any_depth(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder / "train-00000-of-00001.parquet", "PAR1")
    with pytest.raises(DatasetError, match=rf"{folder}/train-00000-of-00001.parquet: .parquet is not read; save it as"):
        open_dataset(tmp_path)


def test_images_whose_captions_are_called_something_else_are_named(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    write(tmp_path / "metadata.jsonl", '{"file_name": "1.jpg", "prompt": "a dog"}\n')
    assert problems(tmp_path) == [("unread file", "metadata.jsonl")]


@pytest.mark.parametrize(
    "content",
    [
        '[{"id": "1", "image": "1.jpg", "conversations": [{"from": "gpt", "value": "a dog"}]}]',
        '{"id": "1", "image": "1.jpg", "conversations": []}\n{"id": "2", "image": "1.jpg", "conversations": []}\n',
    ],
)
def test_conversations_are_no_captions(tmp_path: Path, content: str) -> None:
    touch(tmp_path, ["1.jpg"])
    file = tmp_path / f"llava.json{'l' if content[0] == '{' else ''}"
    write(file, content)
    assert problems(tmp_path) == [("unread file", file.name)]
    with pytest.raises(DatasetError, match="no known dataset layout"):
        open_dataset(file)


def test_one_image_under_several_names(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    write(tmp_path / "a.csv", "image,caption\n1.jpg,one\n./1.jpg,two\n.\\1.jpg,three\n1.JPG,four\n")
    assert [example.captions for example in open_dataset(tmp_path)["all"]] == [("one", "two", "three"), ("four",)]
    assert problems(tmp_path) == [("duplicate image", "1.JPG")]


def test_a_table_by_row_ids_is_read_where_it_is_pointed_at(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg"])
    write(tmp_path / "a.csv", "id,caption\n1,a dog\n2.0,a cat\n")
    assert read_back(open_dataset(tmp_path / "a.csv")) == {"all": {"1.jpg": ["a dog"], "2.jpg": ["a cat"]}}
    assert problems(tmp_path) == [("unread file", "a.csv")]
    scores = captionkit.evaluate({1: "a dog", 2: "a cat"}, str(tmp_path / "a.csv"), ["bleu"])
    assert scores["BLEU-1"] == pytest.approx(1, abs=1e-6)


def test_results_in_an_object_may_be_by_id_alone(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write(file, '{"model": "x", "results": [{"id": 7, "caption": "a dog"}, {"id": 9, "caption": "a cat"}]}')
    assert read_candidates(file).captions == {7: "a dog", 9: "a cat"}
    write(file, '{"7": [{"id": 1, "caption": "a dog"}]}')
    assert read_candidates(file).captions == {"7": "a dog"}
