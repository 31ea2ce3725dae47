"""A run in parts: what it writes, and that it goes on, refuses and starts over as it should."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from bulk_stub import InlinePool, settings, union, write_images
from captionkit.bulk import manifest as manifests
from captionkit.bulk.manifest import Manifest
from captionkit.bulk.merge import merge
from captionkit.bulk.pool import LocalPool
from captionkit.bulk.run import caption_dataset
from captionkit.bulk.status import inspect_output
from captionkit.bulk.store import open_store
from captionkit.errors import CaptionkitError
from captionkit.inference.load import Runtime


class Interrupted(InlinePool):
    """Stops after two parts, as a kill would."""

    def run(self, parts):
        for number, done in enumerate(super().run(parts)):
            if number == 2:
                raise KeyboardInterrupt  # the third part is written, but not named
            yield done


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    write_images(folder, 43)
    (folder / "00021.jpg").write_bytes(b"bad")
    (folder / "notes.md").write_text("no image")
    return folder


@pytest.fixture
def whole(images: Path, tmp_path: Path) -> Path:
    caption_dataset(str(images), str(tmp_path / "whole"), settings())
    return tmp_path / "whole"


def test_every_image_has_one_record_in_the_order_of_the_listing(images: Path, whole: Path) -> None:
    lines = [json.loads(line) for path in sorted(whole.glob("part-*.jsonl")) for line in path.open()]
    assert [line["id"] for line in lines][:2] == ["00000.jpg", "00003.jpg"]
    assert {line["id"] for line in lines} == {str(path.relative_to(images)) for path in images.rglob("*.jpg")}
    [failed] = [line for line in lines if "error" in line]
    assert failed["path"] == f"{images}/00021.jpg" and failed["error"] == f"{images}/00021.jpg: is bad"
    good = lines[0]
    assert good.keys() == {"id", "path", "captions", "confidence", "model", "decoding"}
    assert len({(line["model"], line["decoding"]) for line in lines}) == 1
    assert sorted(path.name for path in whole.iterdir() if path.suffix == ".jsonl") == [
        f"part-{number:06d}.jsonl" for number in range(6)
    ]


def test_a_run_that_was_stopped_goes_on(images: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with pytest.raises(KeyboardInterrupt):
        caption_dataset(str(images), str(output), settings(engine=Interrupted))
    before = {path.name: path.stat().st_ino for path in output.glob("part-*")}
    assert len(before) == 3  # one of which is not named in the manifest
    summary = caption_dataset(str(images), str(output), settings())
    assert (summary.images, summary.done, summary.failed) == (43, 27, 1)
    assert union(output) == union(whole)
    assert all((output / f"part-{part:06d}.jsonl").stat().st_ino == before[f"part-{part:06d}.jsonl"] for part in (0, 1))


def test_a_finished_run_does_nothing(images: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file() and "lock" not in path.name}
    assert caption_dataset(str(images), str(whole), settings()).done == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"decoding": {"num_beams": 5}}, "num_beams 3, now 5"),
        ({"format": "txt"}, "--format jsonl, now txt"),
        ({"part_size": 16}, "--part-size 8, now 16"),
        ({"min_confidence": 0.5}, "--min-confidence None, now 0.5"),
        ({"shard": "1/2"}, "--shard 1/1, now 1/2"),
    ],
)
def test_a_changed_run_is_refused_by_name(images: Path, whole: Path, change: dict, named: str) -> None:
    before = union(whole)
    with pytest.raises(CaptionkitError, match=named) as refused:
        caption_dataset(str(images), str(whole), settings(**change))
    assert "--restart" in str(refused.value) and "\n" not in str(refused.value)
    assert union(whole) == before


def test_a_run_goes_on_after_an_option_of_decoding_was_added(images: Path, whole: Path) -> None:
    header = json.loads((whole / "manifest.json").read_text())
    del header["run"]["decoding"]["top_k"]
    (whole / "manifest.json").write_text(json.dumps(header))
    assert caption_dataset(str(images), str(whole), settings()).done == 0
    with pytest.raises(CaptionkitError, match="top_k 0, now 5"):
        caption_dataset(str(images), str(whole), settings(decoding={"top_k": 5, "temperature": 1.0}))


def test_a_changed_model_is_refused_by_name(images: Path, whole: Path, tmp_path: Path) -> None:
    from captionkit.inference.model_folder import BUNDLED

    other = tmp_path / "other"
    shutil.copytree(BUNDLED, other)
    config = json.loads((other / "config.json").read_text())
    config["calibration"] = {"slope": 2.0} if "calibration" not in config else config.pop("calibration") and None
    (other / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(CaptionkitError, match=r"model bundled \(\w{12}\), now .*other \(\w{12}\)"):
        caption_dataset(str(images), str(whole), settings(model=str(other)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: (folder / "00003.jpg").unlink(), "00006.jpg where 00003.jpg was"),
        (lambda folder: (folder / "00001.jpg").write_bytes(b"x"), "00001.jpg where 00003.jpg was"),
        (lambda folder: (folder / "00003.jpg").write_bytes(b"longer than before"), "has another size"),
        (lambda folder: (folder / "sub2" / "99999.jpg").write_bytes(b"x"), "99999.jpg is new"),
    ],
)
def test_a_changed_input_is_refused_by_name(images: Path, whole: Path, change, named: str) -> None:
    before = union(whole)
    change(images)
    with pytest.raises(CaptionkitError, match=named):
        caption_dataset(str(images), str(whole), settings())
    assert union(whole) == before


def test_restart_begins_anew_and_leaves_what_is_not_ours(images: Path, whole: Path) -> None:
    (whole / "notes.txt").write_text("mine")
    caption_dataset(str(images), str(whole), settings(decoding={"num_beams": 2}, restart=True, part_size=40))
    assert len(list(whole.glob("part-*.jsonl"))) == 2
    assert (whole / "notes.txt").read_text() == "mine"
    (whole / "part-000001.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(CaptionkitError, match="not written by captionkit"):
        caption_dataset(str(images), str(whole), settings(restart=True))
    assert (whole / "part-000001.jsonl").read_text() == '{"mine": 1}\n'


def test_a_part_that_is_gone_is_captioned_again(images: Path, whole: Path) -> None:
    before = union(whole)
    (whole / "part-000002.jsonl").unlink()
    assert inspect_output(str(whole)).missing == ("part-000002.jsonl",)
    assert caption_dataset(str(images), str(whole), settings()).done == 8
    assert union(whole) == before


def test_shares_are_merged_to_what_one_run_writes(images: Path, whole: Path, tmp_path: Path) -> None:
    shares = [str(tmp_path / f"share{number}") for number in (1, 2, 3)]
    for number, share in enumerate(shares, 1):
        caption_dataset(str(images), share, settings(shard=f"{number}/3"))
    with pytest.raises(CaptionkitError, match="share 2/3 is missing"):
        merge([shares[0], shares[2]], str(tmp_path / "merged"))
    merge(shares, str(tmp_path / "merged"))
    names = sorted(path.name for path in whole.glob("part-*"))
    assert [(tmp_path / "merged" / name).read_bytes() for name in names] == [
        (whole / name).read_bytes() for name in names
    ]
    assert not caption_dataset(str(images), str(tmp_path / "merged"), settings()).done
    merge(shares, str(tmp_path / "merged"))  # again: nothing to do


def test_merge_refuses_what_does_not_belong_together(images: Path, whole: Path, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    caption_dataset(str(images), first, settings(shard="1/2"))
    caption_dataset(str(images), second, settings(shard="2/2", decoding={"num_beams": 1}))
    with pytest.raises(CaptionkitError, match="num_beams 3, now 1"):
        merge([first, second], str(tmp_path / "merged"))
    with pytest.raises(CaptionkitError, match="no output of"):
        merge([first, str(images)], str(tmp_path / "merged"))
    caption_dataset(str(images), second, settings(shard="2/2", restart=True))
    part = next(Path(second).glob("part-*.jsonl"))
    part.write_bytes(part.read_bytes() + part.read_bytes())
    with pytest.raises(CaptionkitError, match=f"{part.name}: is not as it was written"):
        merge([first, second], str(tmp_path / "merged"))


def test_too_many_errors_end_the_run(tmp_path: Path) -> None:
    images = tmp_path / "images"
    write_images(images, 60)
    for path in images.glob("*.jpg"):
        path.write_bytes(b"bad")
    summary = caption_dataset(str(images), str(tmp_path / "output"), settings(max_errors=3))
    assert (summary.images, summary.failed) == (8, 8)


def test_inspect_says_what_is_done_and_what_failed(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    (images / "sub1" / "00001.jpg").write_bytes(b"bad")
    with pytest.raises(KeyboardInterrupt):
        caption_dataset(str(images), str(output), settings(engine=Interrupted))
    report = inspect_output(str(output))
    assert (report.images, report.left, report.sound) == (16, None, False)
    caption_dataset(str(images), str(output), settings())
    (report := inspect_output(str(output))).to_dict()
    assert (report.images, report.left, report.failed, report.sound) == (43, 0, 2, False)
    assert report.errors == (("is bad", 2, "00021.jpg"),)
    assert "2 x is bad (first: 00021.jpg)" in str(report)


def test_inspect_knows_what_is_left_of_a_share(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    caption_dataset(str(images), str(output), settings(shard="2/4"))
    assert (inspect_output(str(output)).images, inspect_output(str(output)).left) == (
        11,
        0,
    )  # parts 1 and 5, of 8 and 3


def test_the_manifest_holds_more_parts_than_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_PARTS", 2)
    write_images(tmp_path / "images", 60)
    caption_dataset(str(tmp_path / "images"), str(tmp_path / "output"), settings())
    assert sorted(path.name for path in (tmp_path / "output" / "manifest").iterdir()) == [
        f"{number:04d}.json" for number in range(4)
    ]
    found = Manifest.read(open_store(str(tmp_path / "output")))
    assert found and sorted(found.closed) == list(range(8))


@pytest.mark.parametrize("content", ["{}", "[]", '{"made_by": "captionkit bulk"}', "no JSON"])
def test_a_foreign_manifest_is_left_alone(images: Path, tmp_path: Path, content: str) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / "manifest.json").write_text(content)
    for restart in (False, True):
        with pytest.raises(CaptionkitError, match="no manifest of a bulk run"):
            caption_dataset(str(images), str(output), settings(restart=restart))
    assert (output / "manifest.json").read_text() == content


def test_inspect_takes_only_its_own_manifest_for_a_run(whole: Path, tmp_path: Path) -> None:
    from captionkit.cli.inspect import inspect_path

    assert inspect_path(str(whole)).to_dict()["images"] == 43
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").write_bytes(b"x")
    (tmp_path / "data" / "a.txt").write_text("a dog\n")
    (tmp_path / "data" / "manifest.json").write_text('{"made_by": "someone"}')
    assert inspect_path(str(tmp_path / "data")).to_dict()["layout"] == "folder"


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").touch()
    with pytest.raises(CaptionkitError, match=r"list\.txt: names no images"):
        caption_dataset(str(tmp_path / "list.txt"), str(tmp_path / "output"), settings())


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaptionkitError, match=r"pipe: names no images"):
        caption_dataset(str(tmp_path / "pipe"), str(tmp_path / "output"), settings())


def test_numbers_for_prometheus(images: Path, tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    place = tmp_path / "bulk.prom"
    caption_dataset(str(images), str(tmp_path / "output"), settings(metrics=place))
    found = {
        s.name: s.value for family in parser.text_string_to_metric_families(place.read_text()) for s in family.samples
    }
    assert found["captionkit_bulk_images_total"] == 43
    assert found["captionkit_bulk_failed_images_total"] == 1
    assert found["captionkit_bulk_running"] == 0
    caption_dataset(str(images), str(tmp_path / "output"), settings(metrics=place))  # may be replaced
    place.write_text("mine")
    with pytest.raises(CaptionkitError, match="not written by captionkit"):
        caption_dataset(str(images), str(tmp_path / "output"), settings(metrics=place))


def test_the_log_as_json(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    caption_dataset(str(images), str(tmp_path / "output"), settings(log_format="json"))
    [finished] = map(json.loads, capsys.readouterr().err.splitlines())
    assert finished["event"] == "finished" and finished["images"] == 43 and finished["total"] == 43


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"part_size": 10}, "use 12"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"shard": "3/2"}, "--shard is '3/2'"),
        ({"format": "csv"}, "jsonl, parquet, txt, shards"),
        ({"workers": -1}, "--workers is -1"),
        ({"max_errors": -1}, "--max-errors is -1"),
        ({"decoding": {"force_words": ("zzzqqq",)}}, "vocabulary lacks"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(images: Path, tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(CaptionkitError, match=said):
        caption_dataset(str(images), str(tmp_path / "output"), settings(**changes))
    assert not (tmp_path / "output").exists()


def test_parts_are_pushed_as_a_dataset(images: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    from captionkit.bulk.push import push_parts

    calls: list[dict] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **options: calls.append({"repo": repo, **options}))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: calls.append(options))
    assert push_parts(str(whole), "me/captions") == "https://huggingface.co/datasets/me/captions"
    created, uploaded = calls
    assert created["repo_type"] == uploaded["repo_type"] == "dataset" and uploaded["folder_path"] == str(whole)
    assert not any(pattern in uploaded["allow_patterns"] for pattern in ("*", ".captionkit-bulk.lock"))

    def fail(self, **_: object) -> None:
        raise OSError("401 Client Error\nmore")

    monkeypatch.setattr(HfApi, "upload_folder", fail)
    with pytest.raises(CaptionkitError, match=r"me/captions: .*401 Client Error\); log in"):
        push_parts(str(whole), "me/captions")


@pytest.mark.parametrize("again", [True, False])
def test_an_empty_list_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("")
    monkeypatch.setattr(sys, "stdin", listed.open())
    with pytest.raises(CaptionkitError, match="names no images"):
        caption_dataset(str(listed) if again else "-", str(tmp_path / "output"), settings())
    assert list(tmp_path.iterdir()) == [listed]


def test_a_piped_list_is_captioned_from_its_first_line_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted(images.glob("*.jpg"))))
    monkeypatch.setattr(sys, "stdin", listed.open())
    summary = caption_dataset("-", str(tmp_path / "output"), settings())
    assert summary.images == len(list(images.glob("*.jpg")))


def test_a_device_that_is_not_here_is_known_before_anything_is_written(images: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionkitError, match="device 'abacus'"):
        caption_dataset(
            str(images), str(tmp_path / "output"), settings(engine=LocalPool, runtime=Runtime(device="abacus"))
        )
    assert not (tmp_path / "output").exists()
