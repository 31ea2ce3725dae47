"""Parts as files, read back by others' programs."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bulk_stub import settings, union, write_images
from captionkit.bulk.run import caption_dataset
from captionkit.data.layouts import open_dataset
from captionkit.errors import CaptionkitError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / ("sub" if number % 2 else "") / f"{number}.png")
    (folder / "bad.jpg").write_bytes(b"bad")
    return folder


def run(images: Path, output: Path, **changes) -> None:
    caption_dataset(str(images), str(output), settings(**changes))


def captions_of(images: Path, output: Path) -> dict[str, str]:
    """Return what JSON lines say, which other formats are compared with."""
    run(images, output)
    records = map(json.loads, union(output))
    return {record["path"]: record["captions"][0]["text"] for record in records if "captions" in record}


def test_text_files_lie_as_the_images_do(images: Path, tmp_path: Path) -> None:
    wanted = captions_of(images, tmp_path / "lines")
    run(images, tmp_path / "texts", format="txt")
    for path, caption in wanted.items():
        place = Path(path).relative_to(images).with_suffix(".txt")
        assert (tmp_path / "texts" / place).read_text() == f"{caption}\n"
    assert len(list((tmp_path / "texts").rglob("*.txt"))) == len(wanted) == 10


def test_text_files_beside_the_images_replace_no_other(images: Path, tmp_path: Path) -> None:
    (images / "0.txt").write_text("a caption by hand\n")
    run(images, images, format="txt")
    assert (images / "0.txt").read_text() == "a caption by hand\n"
    errors = {record["id"]: record["error"] for record in map(json.loads, union(images)) if "error" in record}
    assert errors.keys() == {"0.png", "bad.jpg"} and "0.txt: is there already" in errors["0.png"]
    run(images, images, format="txt", decoding={"num_beams": 1}, restart=True)
    assert (images / "0.txt").read_text() == "a caption by hand\n" and (images / "2.txt").exists()


def test_restart_removes_the_text_files_of_the_run(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "texts", format="txt")
    (tmp_path / "texts" / "2.txt").write_text("corrected by hand\n")
    run(images, tmp_path / "texts", restart=True)
    assert [path.name for path in (tmp_path / "texts").rglob("*.txt")] == ["2.txt"]


def test_shards_hold_images_captions_and_records(images: Path, tmp_path: Path) -> None:
    wanted = captions_of(images, tmp_path / "lines")
    run(images, tmp_path / "shards", format="shards")
    found = {}
    for path in sorted((tmp_path / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name in (name for name in files if name.endswith(".json")):
            record = json.loads(files[name])
            found[record["path"]] = files[name.replace(".json", ".txt")].decode().strip()
            assert files[name.replace(".json", ".png")] == Path(record["path"]).read_bytes()
    assert found == wanted
    assert len(union(tmp_path / "shards")) == 11  # the error, too


def test_shards_train_a_model(images: Path, tmp_path: Path) -> None:
    wanted = captions_of(images, tmp_path / "lines")
    run(images, tmp_path / "shards", format="shards")
    dataset = open_dataset(tmp_path / "shards")
    assert dataset.layout == "shards" and not dataset.problems
    assert sorted(example.captions[0] for example in dataset["all"]) == sorted(wanted.values())


def test_captions_added_to_shards_keep_what_was_there(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name in ("x.json", "x.cls", "x.png"):
            (tmp_path / name).write_bytes((images / "0.png").read_bytes() if name == "x.png" else b'{"old": 1}')
            tar.add(tmp_path / name, name)
    caption_dataset(str(tmp_path / "in.tar"), str(tmp_path / "out"), settings(format="shards"))
    with tarfile.open(tmp_path / "out" / "part-000000.tar") as tar:
        names = tar.getnames()
        assert tar.extractfile("000000000.before.json").read() == b'{"old": 1}'
    assert sorted(names) == sorted(f"000000000.{end}" for end in ("png", "txt", "json", "cls", "before.json"))


def test_parquet_is_a_dataset_of_images(images: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    wanted = captions_of(images, tmp_path / "lines")
    run(images, tmp_path / "tables", format="parquet")
    datasets.disable_progress_bars()
    found = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "tables" / "*.parquet"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert {row["path"]: row["caption"] for row in found if row["error"] is None} == wanted
    for row in found:
        if row["error"] is None:
            assert row["image"].size == (4, 4)
            assert row["image"].tobytes() == Image.open(row["path"]).tobytes()


def test_parquet_trains_a_model(images: Path, tmp_path: Path) -> None:
    wanted = captions_of(images, tmp_path / "lines")
    run(images, tmp_path / "tables", format="parquet")
    dataset = open_dataset(tmp_path / "tables")
    assert dataset.layout == "parquet"
    assert sorted(example.captions[0] for example in dataset["all"]) == sorted(wanted.values())
    sizes = {Path(path).stat().st_size for path in wanted}
    assert {len(example.image.read()) for example in dataset["all"]} == sizes
    assert [problem.kind for problem in dataset.problems] == ["missing image"]


@pytest.mark.parametrize("format", ["jsonl", "parquet", "txt", "shards"])
def test_the_same_records_give_the_same_bytes(images: Path, tmp_path: Path, format: str) -> None:
    for name in ("first", "second"):
        run(images, tmp_path / name, format=format)
    parts = sorted(path.name for path in (tmp_path / "first").glob("part-*"))
    assert parts
    for part in parts:
        assert (tmp_path / "first" / part).read_bytes() == (tmp_path / "second" / part).read_bytes()


@pytest.mark.parametrize("format", ["parquet", "shards"])
def test_an_output_in_its_input_is_refused(images: Path, format: str) -> None:
    with pytest.raises(CaptionkitError, match="lies in the input"):
        run(images, images / "captions", format=format)


@pytest.mark.parametrize("format", ["jsonl", "parquet", "shards"])
def test_foreign_files_of_a_parts_name_stay(images: Path, tmp_path: Path, format: str) -> None:
    output = tmp_path / "output"
    run(images, output, format=format)
    name = f"part-000001.{'tar' if format == 'shards' else format}"
    (output / name).write_bytes(b"mine")
    (output / "manifest" / "0000.json").unlink()  # so that no part counts as whole
    with pytest.raises(CaptionkitError, match=r"not written by captionkit; move it away"):
        run(images, output, format=format)
    assert (output / name).read_bytes() == b"mine"


def test_names_that_are_no_unicode_are_written_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "\udce9.jpg").write_bytes(b"x")
    run(tmp_path / "images", tmp_path / "output")
    [record] = map(json.loads, union(tmp_path / "output"))
    assert record["id"] == "\udce9.jpg"
    write_images(tmp_path / "more", 1)
    pytest.importorskip("pyarrow")
    run(tmp_path / "images", tmp_path / "tables", format="parquet")


def test_captions_are_filtered_as_the_document_says(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    document = Path(__file__).parents[2] / "docs" / "distil-from-a-large-captioner.md"
    if not document.is_file():
        pytest.skip("without the documents")
    run(images, tmp_path / "captioned", format="parquet")
    names: dict = {"__name__": "document"}
    code = document.read_text().split("```python\n")[1].partition("```")[0]
    exec(code.replace("captionkit.ClipScore", "object"), names)

    class Judge:
        """Finds images good whose first channel is 3 or more."""

        def reset(self) -> None:
            self.per_image = np.empty((0, 2))

        def update(self, candidates, references, contents) -> None:
            first = [Image.open(io.BytesIO(content)).getpixel((0, 0))[0] for content in contents]
            self.per_image = np.array([[value >= 3, 0] for value in first], float).reshape(-1, 2)

        def compute(self) -> Judge:
            return self

    records = map(json.loads, union_of_lines(images, tmp_path))
    wanted = [r for r in records if r.get("confidence", 0) >= 0.4 and int(Path(r["path"]).stem) >= 3]
    assert 0 < len(wanted) < 7
    assert names["keep"](str(tmp_path / "captioned"), str(tmp_path / "kept"), Judge(), 0.4, 0.5) == len(wanted)
    kept = open_dataset(tmp_path / "kept")
    assert sorted(example.captions[0] for example in kept["all"]) == sorted(r["captions"][0]["text"] for r in wanted)


def union_of_lines(images: Path, tmp_path: Path) -> list[bytes]:
    run(images, tmp_path / "as-lines")
    return union(tmp_path / "as-lines")
