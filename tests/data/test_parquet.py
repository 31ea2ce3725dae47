"""Parquet files of captioned images as datasets, compared with what pyarrow was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from captionkit.data.layouts import open_dataset
from captionkit.errors import DatasetError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, row_group_size=50)
    return path


def test_images_are_read_in_any_order(tmp_path: Path) -> None:
    contents = [b"image %d" % number * (number % 7 + 1) for number in range(200)]
    write(tmp_path / "d" / "train-00000.parquet", image=contents, text=[f"caption {n}" for n in range(200)])
    examples = open_dataset(tmp_path / "d").split("train")
    assert [examples[index].image.read() for index in (199, 3, 50, 49, 0)] == [
        contents[index] for index in (199, 3, 50, 49, 0)
    ]
    assert [example.captions for example in examples] == [(f"caption {n}",) for n in range(200)]
    assert len({example.id for example in examples}) == 200


def test_splits_and_names_of_hugging_face_datasets(tmp_path: Path) -> None:
    cells = [{"bytes": b"A", "path": "000000000042.jpg"}, {"bytes": b"B", "path": "000000000042.jpg"}]
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        write(tmp_path / "d" / "data" / f"{name}.parquet", image=cells, captions=[["one", "two"], ["three"]])
    dataset = open_dataset(tmp_path / "d")
    assert dataset.layout == "parquet" and list(dataset) == ["train", "val"]
    first, second = dataset["train"]
    assert (first.id, first.captions) == (42, ("one", "two"))
    assert second.id == "train-00000-of-00001/1" and second.image.read() == b"B"


def test_rows_without_image_or_caption_are_problems(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", image=[b"A", None, b"C"], caption=["a", "b", None])
    dataset = open_dataset(path)
    assert [example.captions for example in dataset["all"]] == [("a",), ()]
    assert [(problem.kind, problem.where) for problem in dataset.problems] == [
        ("missing image", "row 1"),
        ("image without caption", "a/2"),
    ]


def test_images_are_unpacked_once_and_again_if_the_file_changes(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.parquet", image=[b"A"], caption=["a"])
    open_dataset(path)
    [unpacked] = cache.rglob("*.images")
    before = unpacked.stat().st_mtime_ns
    open_dataset(path)
    assert unpacked.stat().st_mtime_ns == before
    write(path, image=[b"longer"], caption=["a"])
    assert open_dataset(path)["all"][0].image.read() == b"longer"
    for file in cache.rglob("*.images"):
        file.write_bytes(b"")  # a damaged cache is made again
    assert open_dataset(path)["all"][0].image.read() == b"longer"


def test_tables_without_images_or_captions_are_not_of_this_layout(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.parquet", image=[b"A"], label=[1])
    with pytest.raises(DatasetError, match="columns of image bytes and of captions"):
        open_dataset(tmp_path / "d")


def test_a_cut_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", image=[bytes(100_000)], caption=["a"])
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(DatasetError) as refused:
        open_dataset(path)
    assert "\n" not in str(refused.value)
