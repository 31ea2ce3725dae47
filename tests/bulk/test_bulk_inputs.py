"""Inputs of every kind, with what is wrong in them, to their images."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from captionkit.bulk.items import Item, Remote, Url, locate, read_bytes
from captionkit.bulk.listing import find
from captionkit.errors import CaptionkitError, ImageError


def listed(named: str | Path, **options) -> list[Item]:
    return list(find(str(named), **options).items())


def content(item: Item) -> bytes:
    return read_bytes(locate(item), None)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_folder_is_read_as_what_its_first_folder_has(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_tar(tmp_path / "a" / "0.tar", {"x.jpg": b"1"})
    assert [item.id for item in listed(tmp_path)] == ["a/0.tar/x.jpg"]
    (tmp_path / "y.jpg").write_bytes(b"2")
    assert [item.id for item in listed(tmp_path)] == ["y.jpg"]


def test_images_of_one_stem_have_text_files_of_their_own(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.b.jpg"):
        (tmp_path / name).touch()
    assert [item.sidecar for item in listed(tmp_path)] == ["a.txt", "a.png.txt", "a.b.txt"]


def test_kinds_that_are_not_opened_become_errors(tmp_path: Path) -> None:
    (tmp_path / "a.jxl").touch()
    [item] = listed(tmp_path)
    assert item.error.endswith("convert them to JPEG with `djxl` (libjxl)")


@pytest.mark.parametrize("name", ["nowhere", "photo.jpg", "http://example.org/a.jpg"])
def test_what_is_no_input_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(CaptionkitError) as refused:
        find(name if "://" in name else str(tmp_path / name))
    assert "\n" not in str(refused.value) and "; " in str(refused.value)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionkitError, match="no images in this folder"):
        find(str(tmp_path))


def test_shards_keep_the_other_files_of_a_sample(tmp_path: Path) -> None:
    members = {"a.jpg": b"A", "a.json": b"{}", "a.cls": b"3", "b.txt": b"no image", "c.png": b"C"}
    write_tar(tmp_path / "0.tar", members)
    first, second = listed(tmp_path / "0.tar")
    assert (first.id, content(first), [extra.name for extra in first.extras]) == (
        "0.tar/a.jpg",
        b"A",
        ["a.json", "a.cls"],
    )
    assert (second.id, content(second), second.sidecar) == ("0.tar/c.png", b"C", "0.tar/c.txt")


def test_a_shard_cut_in_the_middle_gives_what_precedes_and_one_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {f"{number}.jpg": b"x" * 2000 for number in range(5)})
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: 2560 * 3 + 700])
    found = listed(tmp_path / "0.tar")
    assert [item.id for item in found if not item.error] == ["0.tar/0.jpg", "0.tar/1.jpg", "0.tar/2.jpg"]
    [damaged] = [item for item in found if item.error]
    assert "ends in the middle of 3.jpg" in damaged.error and damaged.error.startswith(str(tmp_path / "0.tar"))


@pytest.mark.parametrize("cut", [0, 700])
def test_remote_shards_are_read_as_those_on_a_disk(tmp_path: Path, cut: int) -> None:
    fsspec = pytest.importorskip("fsspec")
    members = {
        name: b"%d" % number * 3000 for number, name in enumerate(("a.jpg", "a.json", "b.txt", "c/d.png", "e.jpg"))
    }
    write_tar(tmp_path / "0.tar", members)
    archive = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(archive[: 4 * 3584 + cut] if cut else archive)
    system, name = fsspec.filesystem("memory"), f"shards-{cut}"
    system.pipe_file(f"/{name}/0.tar", (tmp_path / "0.tar").read_bytes())

    def told(item: Item, root: str) -> tuple[object, ...]:
        extras = [(extra.name, extra.read()) for extra in item.extras]
        found = content(item) if not item.error else b""
        return (
            item.id,
            item.path.removeprefix(root),
            found,
            item.size,
            item.error.removeprefix(root),
            item.sidecar,
            extras,
        )

    local = [told(item, f"{tmp_path}/") for item in listed(tmp_path)]
    assert [told(item, f"memory://{name}/") for item in listed(f"memory://{name}")] == local
    assert [told(item, f"memory://{name}/") for item in listed(f"memory://{name}/0.tar")] == local
    assert len(local) == 3 and ("ends in the middle of e.jpg" in str(local)) == bool(cut)


def test_a_remote_shard_that_shrinks_is_an_error(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    write_tar(tmp_path / "0.tar", {"a.jpg": b"A" * 3000})
    system = fsspec.filesystem("memory")
    system.pipe_file("/shrinks/0.tar", (tmp_path / "0.tar").read_bytes())
    [item] = listed("memory://shrinks/0.tar")
    system.pipe_file("/shrinks/0.tar", b"short")
    with pytest.raises(ImageError, match="has changed since it was listed"):
        content(item)


def test_a_repeated_key_of_a_shard_is_an_error_with_an_id_of_its_own(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.jpg", "b.jpg", "a.jpg"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    found = listed(tmp_path / "0.tar")
    assert len({item.id for item in found}) == 3
    assert [bool(item.error) for item in found] == [False, False, True]


def test_a_list_has_paths_urls_and_addresses(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"A")
    lines = [str(tmp_path / "a.jpg"), "https://example.org/b.jpg?x=1", "s3://bucket/c.jpg", "../../gone.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    first, url, remote, gone = listed(tmp_path / "list.txt")
    assert (content(first), first.size) == (b"A", 1)
    assert url.source == Url(lines[1]) and url.sidecar == "example.org/b.txt"
    assert remote.source == Remote(lines[2])
    assert gone.sidecar == "gone.txt" and gone.size == -1
    with pytest.raises(ImageError, match="--allow-urls"):
        content(url)
    assert read_bytes(url.source, lambda address: address.encode()) == lines[1].encode()


def test_standard_input_lists_paths(tmp_path: Path) -> None:
    stream = io.BytesIO(b"a.jpg\0b c.jpg\0")
    assert [item.path for item in listed("-", stdin=stream)] == ["a.jpg", "b c.jpg"]
    with pytest.raises(CaptionkitError, match="not a list of paths"):
        listed("-", stdin=io.BytesIO(b"\x89PNG\r\n\x1a\n" + bytes(2000)))


class TestParquet:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(self, path: Path, columns: dict, **options) -> Path:
        self.parquet.write_table(self.pa.table(columns), path, **options)
        return path

    def test_bytes_in_any_order_over_row_groups_of_any_size(self, tmp_path: Path) -> None:
        rows = [b"row %d" % number for number in range(500)]
        path = self.write(tmp_path / "a.parquet", {"image": rows, "n": range(500)}, row_group_size=70)
        found = listed(path)
        assert [content(item) for item in found] == rows
        assert [content(found[index]) for index in (499, 0, 300, 299, 33, 32, 31)] == [
            rows[index] for index in (499, 0, 300, 299, 33, 32, 31)
        ]
        assert found[7].id == "a.parquet#7" and found[7].path == f"{path}#7"

    def test_datasets_images_hold_bytes_or_a_path(self, tmp_path: Path) -> None:
        (tmp_path / "b.jpg").write_bytes(b"B")
        cells = [{"bytes": b"A", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}]
        found = listed(self.write(tmp_path / "a.parquet", {"image": cells}))
        assert [content(item) for item in found] == [b"A", b"B"]

    @pytest.mark.parametrize("value", [None, b""])
    def test_a_null_image_is_an_error_of_its_row(self, tmp_path: Path, value: bytes | None) -> None:
        found = listed(self.write(tmp_path / "a.parquet", {"image": [b"A", value, b"C"]}))
        assert [content(found[0]), content(found[2])] == [b"A", b"C"]
        with pytest.raises(ImageError, match=r"a\.parquet#1: the row has no image"):
            locate(found[1])

    def test_paths_stay_in_the_tables_folder(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "secret.jpg").write_bytes(b"S")
        (tmp_path / "in" / "a.jpg").write_bytes(b"A")
        (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
        cells = ["a.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "https://example.org/x.jpg"]
        found = listed(self.write(tmp_path / "in" / "t.parquet", {"path": cells}))
        assert content(found[0]) == b"A"
        for item in found[1:4]:
            with pytest.raises(ImageError, match="leads out of the table's folder"):
                locate(item)
        assert locate(found[4]) == Url("https://example.org/x.jpg")

    def test_the_column_can_be_named(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "a.parquet", {"left": [b"L"], "right": [b"R"], "n": [1]})
        assert content(listed(path)[0]) == b"L"
        assert content(listed(path, column="right")[0]) == b"R"
        [item] = listed(path, column="none")
        assert "it has left, right, n" in item.error

    def test_damaged_and_unfit_tables_are_errors(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a.parquet", {"n": [1]})
        (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
        first, second = listed(tmp_path)
        assert "--image-column" in first.error and "cannot be read as Parquet" in second.error

    def test_remote_tables(self, tmp_path: Path) -> None:
        fsspec = pytest.importorskip("fsspec")
        path = self.write(tmp_path / "a.parquet", {"image": [b"A", b"B"]})
        fsspec.filesystem("memory").pipe_file("/tables/a.parquet", path.read_bytes())
        assert [content(item) for item in listed("memory://tables")] == [b"A", b"B"]


def test_a_dataset_of_the_hub_is_read_row_by_row(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    for split, count in (("train", 3), ("test", 1)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "data" / split / f"{number}.png")
    datasets.disable_progress_bars()
    found = listed(f"hf:{tmp_path / 'data'}")
    assert [item.id for item in found] == ["train#0", "train#1", "train#2", "test#0"]
    assert content(found[1]) == (tmp_path / "data" / "train" / "1.png").read_bytes()
    assert [item.id for item in listed(f"hf:{tmp_path / 'data'}:test")] == ["test#0"]
    with pytest.raises(CaptionkitError, match="has no split 'val'; it has train, test"):
        listed(f"hf:{tmp_path / 'data'}:val")
