"""Tar shards: what is read of them, what is refused, and in what order they are shown."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from captionkit.cli import main as cli
from captionkit.data.images import open_image
from captionkit.data.layouts import inspect_dataset, open_dataset, shards, stated_captions, tar
from captionkit.data.layouts.caption_set import Problem
from captionkit.errors import DatasetError, ImageError
from captionkit.utils.archive import ArchiveMember


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))


def picture(colour: int = 0, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (colour % 256, colour // 256, 90)).save(buffer, kind)
    return buffer.getvalue()


def write(path: Path, members: Mapping[str, bytes], **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **how) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5  # as webdataset writes it: a pax header goes before each member
            archive.addfile(info, io.BytesIO(content))
    return path


def kinds(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.kind, problem.where) for problem in problems]


# --- what is read ---


def test_pictures_and_captions_of_samples_by_split(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root / "train-000001.tar", {"7.png": picture(7), "7.txt": b"seven\n\n of  them \n"})
    write(
        root / "train-000000.tar",
        {
            "000000000042.jpg": picture(1, "jpeg"),
            "000000000042.json": b'{"caption": "a dog", "url": "http://x"}',
            "000000000042.txt": b"another text",
            "deep/a.b.webp": b"a class map, not the image",
            "deep/a.PNG": picture(2),
            "deep/a.json": b'{"caption": null, "captions": ["one", "two"]}',
            "deep/a.cls": b"3",
        },
    )
    write(root / "val" / "x.tar", {"x.png": picture(3), "x.json": b'["uno", "due"]'})
    write(root / "val" / "y.tar", {"x.png": picture(4), "x.json": '"drei \u00fcber"'.encode()})
    dataset = open_dataset(root)
    assert dataset.layout == "shards" and not dataset.problems
    found = {split: [(e.id, e.name, e.captions) for e in examples] for split, examples in dataset.items()}
    assert found == {
        "train": [
            (42, "000000000042.jpg", ("a dog",)),
            ("deep/a", "deep/a.PNG", ("one", "two")),
            (7, "7.png", ("seven", "of them")),
        ],
        "val": [("x", "x.png", ("uno", "due")), ("y/x", "x.png", ("drei \u00fcber",))],
    }
    assert [open_image(e.image).getpixel((0, 0)) for e in dataset["val"]] == [(3, 0, 90), (4, 0, 90)]
    assert dataset["train"][1].image.read() == picture(2)
    report = inspect_dataset(dataset, check_images=True)
    assert report.sound and report.shared_images == {} and report.splits["train"].captions == 5


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("long", ["k" * 90, "f/" * 60 + "k" * 40, "\u00fc\u6f22" * 40 + "/k", "k" * 300], ids=len)
def test_members_are_those_that_tarfile_finds(tmp_path: Path, kind: int, long: str) -> None:
    names = [f"{long}.png", f"{long}.txt", "next.png"]
    if kind == tarfile.USTAR_FORMAT:
        names = [name for name in names if len(name) < 100 and name.isascii()]
    contents = {name: bytes([n]) * (700 * n) for n, name in enumerate(names)}
    path = write(tmp_path / "0.tar", contents, format=kind)
    with tarfile.open(path) as archive:
        wanted = [(info.name, info.offset_data, info.size) for info in archive]
    found = list(tar.walk(path))
    assert [(m.name, m.offset, m.size) for m in found] == wanted
    assert {m.name: m.read() for m in found} == contents


def test_what_plain_tar_writes(tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    for n in range(3):
        (source / f"{n}.jpg").write_bytes(picture(n, "jpeg"))
        (source / f"{n}.txt").write_text(f"number {n}\n")
    (source / "._0.jpg").write_bytes(b"what macOS adds")
    root = tmp_path / "data"
    root.mkdir()
    subprocess.run(["tar", "--sort=name", "-cf", root / "train-0.tar", "-C", source, "."], check=True)
    dataset = open_dataset(root)
    assert [(e.id, e.captions) for e in dataset["train"]] == [(n, (f"number {n}",)) for n in range(3)]
    assert not dataset.problems


def test_layout_is_detected_only_where_it_is_one(tmp_path: Path) -> None:
    shard = write(tmp_path / "img2dataset" / "00000.tar", {"000000000.jpg": picture(1, "jpeg"), "000000000.txt": b"x"})
    (shard.parent / "00000_stats.json").write_text('{"count": 1, "successes": 1, "captions": 0}')
    (shard.parent / "00000.parquet").write_bytes(b"PAR1")
    assert open_dataset(shard.parent).layout == "shards" and list(open_dataset(shard)) == ["all"]
    photos = tmp_path / "photos"
    write(photos / "backup-2020.tar", {"1.png": picture()})
    (photos / "a.png").write_bytes(picture())
    assert open_dataset(photos).layout == "folder"
    write(tmp_path / "old" / "backup.tar", {"1.png": picture()})
    (tmp_path / "old" / "deep").mkdir()
    (tmp_path / "old" / "deep" / "a.png").write_bytes(picture())
    assert open_dataset(tmp_path / "old").layout == "folder"
    assert open_dataset(tmp_path / "old" / "backup.tar").layout == "shards"


def test_captions_alone_are_stated(tmp_path: Path) -> None:
    write(tmp_path / "test.tar", {"1.png": b"", "1.txt": b"a dog"})
    assert [(entry.id, entry.captions, entry.split) for entry in stated_captions(tmp_path)] == [(1, ["a dog"], "test")]


# --- what is refused ---


def test_compressed_shards_are_named(tmp_path: Path) -> None:
    plain = write(tmp_path / "0.tar", {"1.png": picture()})
    packed = tmp_path / "data" / "train-0.tar.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(DatasetError, match=r"train-0\.tar\.gz: .*packed by gzip, and only plain \.tar is read; unpack"):
        open_dataset(packed.parent)
    packed.rename(packed.with_name("train-0.tar"))
    with pytest.raises(DatasetError, match="packed by gzip"):
        open_dataset(packed.parent)


def entry(name: str, content: bytes = b"", **changes: object) -> bytes:
    """A header and its content, with fields that no honest writer sets."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in changes.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def resized(header: bytes, size: bytes) -> bytes:
    """A header whose field of the size is `size`, with its checksum corrected."""
    header = header[:124] + size.ljust(12, b"\0") + header[136:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


GOOD = entry("1.png", picture(1)) + entry("1.txt", b"a dog")
END = bytes(1024)
NEGATIVE = b"\xff" * 4 + struct.pack(">q", -1536)
HUGE = b"\x80\0\0\0" + struct.pack(">q", 1 << 60)
TRICKS = {
    "absolute": (entry("/etc/passwd.png", b"x") + END, "path outside the root", "relative"),
    "dots": (entry("a/../../b.png", b"x") + END, "path outside the root", "relative"),
    "drive": (entry("C:\\b.png", b"x") + END, "path outside the root", "relative"),
    "symlink": (entry("2.png", type=tarfile.SYMTYPE, linkname="/etc/passwd") + END, "link in a shard", "dereference"),
    "hardlink": (entry("2.png", type=tarfile.LNKTYPE, linkname="1.png") + END, "link in a shard", "dereference"),
    "device": (entry("2.png", type=tarfile.CHRTYPE) + END, "not a plain file in a shard", "dereference"),
    "sparse": (entry("2.png", type=tarfile.GNUTYPE_SPARSE) + END, "not a plain file in a shard", "dereference"),
    "negative": (resized(entry("2.png"), NEGATIVE) + END, "damaged shard", "size of -1536 bytes"),
    "huge": (resized(entry("2.png"), HUGE) + END, "damaged shard", "ends in the middle of 2.png"),
    "long name": (
        resized(entry("2", type=tarfile.GNUTYPE_LONGNAME), b"7777777") + bytes(3 << 20),
        "damaged shard",
        "2",
    ),
    "bad pax": (entry("2", b"9999 path=x\n", type=tarfile.XHDTYPE) + END, "damaged shard", "pax header that is none"),
    "pax size": (entry("2", b"13 size=-12\n", type=tarfile.XHDTYPE) + END, "damaged shard", "pax header that is none"),
    "pax minus": (entry("2", b"12 size=-12\n", type=tarfile.XHDTYPE) + entry("2.png") + END, "damaged shard", "-12"),
    "cut content": (entry("2.png", b"x" * 5000)[:-2000], "damaged shard", "ends in the middle of 2.png"),
    "cut header": (entry("2.png")[:300], "damaged shard", "truncated header"),
    "cut between": (b"", "damaged shard", "no end mark"),
    "garbage": (b"garbage! " * 200, "damaged shard", "what precedes is used"),
    "twice": (entry("1.png", picture(9)) + END, "duplicate key", "second image"),
    "twice jpg": (entry("1.jpg", picture(9)) + END, "duplicate key", "second image"),
    "two texts": (entry("1.txt", b"no") + END, "duplicate key", "second .txt"),
    "no picture": (entry("2.txt", b"a cat") + END, "missing image", "captions: 1"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_and_damage_are_named_and_the_rest_is_used(tmp_path: Path, trick: str) -> None:
    more, kind, says = TRICKS[trick]
    path = tmp_path / "data" / "train-0.tar"
    path.parent.mkdir()
    path.write_bytes(GOOD + more)
    for _ in range(2):  # looked at, and out of the cache
        dataset = open_dataset(path.parent)
        (problem,) = dataset.problems
        assert problem.kind == kind and says in problem.detail and problem.detail.startswith("train-0.tar: ")
        (example,) = dataset["train"]
        assert example.captions == ("a dog",) and example.image.read() == picture(1)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("1.txt", b"\xff\xfa", "malformed caption"),
        ("1.json", b"{", "malformed caption"),
        ("1.json", b"[" * 100_000, "malformed caption"),
        ("1.json", b'{"caption": 5}', "malformed caption"),
        ("1.json", b'{"caption": ["\\ud83d"]}', "malformed caption"),
        ("1.txt", b"x" * (shards.MAX_CAPTIONS + 1), "malformed caption"),
    ],
)
def test_captions_that_are_none(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    write(tmp_path / "data" / "0.tar", {"1.png": picture(), name: content, "2.png": picture(), "2.txt": b"fine"})
    dataset = open_dataset(tmp_path / "data")
    assert [example.captions for example in dataset["all"]] == [(), ("fine",)]
    assert (kind, "1.png" if content.startswith(b'{"c') else name) in kinds(dataset.problems)


def test_a_shard_behind_a_link_that_its_owner_made_is_read(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside-0.tar", {"1.png": picture(), "1.txt": b"linked"})
    write(tmp_path / "data" / "0.tar", {"2.png": picture(), "2.txt": b"here"})
    (tmp_path / "data" / "1.tar").symlink_to(outside)
    dataset = open_dataset(tmp_path / "data")
    assert not dataset.problems
    assert [(example.id, example.captions) for example in dataset["all"]] == [(2, ("here",)), (1, ("linked",))]


# --- the index is kept ---


def test_the_index_is_read_again_only_where_a_shard_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / "data" / f"{n}.tar", {f"{n}.png": picture(n), f"{n}.txt": b"a"}) for n in range(3)]
    walked: list[str] = []
    original = tar.walk
    monkeypatch.setattr(shards, "walk", lambda path: (walked.append(path.name), original(path))[1])
    first = open_dataset(tmp_path / "data")
    assert walked == ["0.tar", "1.tar", "2.tar"]
    assert open_dataset(tmp_path / "data")["all"] == first["all"] and len(walked) == 3
    write(paths[1], {"1.png": picture(5), "1.txt": b"changed, and longer"})
    assert open_dataset(tmp_path / "data")["all"][1].captions == ("changed, and longer",)
    assert walked[3:] == ["1.tar"]
    for cached in (tmp_path / "cache" / "shards").iterdir():
        cached.write_bytes(cached.read_bytes()[:-9])  # cut by hand: written again
    assert len(open_dataset(tmp_path / "data")["all"]) == 3 and sorted(walked[4:]) == ["0.tar", "1.tar", "2.tar"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "file"))
    write(tmp_path / "data" / "0.tar", {"1.png": picture(), "1.txt": b"a"})
    assert len(open_dataset(tmp_path / "data")["all"]) == 1


def test_a_shard_that_changed_since_is_an_image_error(tmp_path: Path) -> None:
    path = write(tmp_path / "data" / "0.tar", {"1.png": picture(), "2.png": picture() * 50})
    images = [example.image for example in open_dataset(tmp_path / "data")["all"]]
    os.truncate(path, images[1].offset + 100)
    open_image(images[0])
    with pytest.raises(ImageError, match=r"0\.tar/2\.png: .*ends before it; it has changed") as caught:
        open_image(images[1])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(ImageError, match=r"0\.tar/1\.png: cannot be read \(No such file"):
        open_image(images[0])
    with pytest.raises(ImageError, match="empty"):
        open_image(ArchiveMember(path, "x.png", 0, 0))
    with pytest.raises(ImageError, match="bytes are more than"):
        open_image(ArchiveMember(path, "x.png", 0, 1 << 40))


# --- the commands ---


def test_inspect_and_score_and_caption_work_on_shards(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {"1.png": picture(1), "1.txt": b"a dog\na black dog", "2.png": picture(2), "2.txt": b"two cats"}
    path = write(tmp_path / "data" / "val-0.tar", members)
    assert cli.main(["inspect", str(path.parent), "--check-images", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["val"]["captions"] == 3
    out = tmp_path / "out"
    assert cli.main(["evaluate", str(model_folder), str(path.parent), "--output", str(out), "--metrics", "bleu"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [row["image_id"] for row in results] == [1, 2]
    assert "data:image" in (out / "gallery.html").read_text()
    capsys.readouterr()
    assert cli.main(["score", str(path.parent), str(out / "results.json"), "--metrics", "bleu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    assert cli.main(["caption", str(path), "--model", str(model_folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in said] == [f"{path}/1.png", f"{path}/2.png"]
    assert [line.split("\t")[1] for line in said] == [row["caption"] for row in results]
    (tmp_path / "not.tar").write_bytes(b"no tar at all" * 100)
    assert cli.main(["caption", str(tmp_path / "not.tar"), "--model", str(model_folder)]) == 1
    assert "not.tar" in capsys.readouterr().err


# --- size ---


@pytest.mark.slow
def test_twenty_thousand_pictures_are_indexed_and_read_in_little_memory(tmp_path: Path) -> None:
    content = [picture(n, "jpeg") + bytes(3000) for n in range(50)]
    for shard in range(20):
        names = [f"{shard:05d}{n:04d}" for n in range(1000)]
        members = {}
        for n, name in enumerate(names):
            members |= {f"{name}.jpg": content[n % 50], f"{name}.txt": b"image number " + name.encode()}
        path = tmp_path / "data" / f"{shard:05d}.tar"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            for name, value in members.items():
                file.write(entry(name, value))
            file.write(END)
    assert sum(path.stat().st_size for path in (tmp_path / "data").iterdir()) > 80e6
    # In a process of its own: what earlier tests have started may allocate meanwhile.
    subprocess.run([sys.executable, "-c", _READ_IN_LITTLE_MEMORY, str(tmp_path / "data")], check=True)


_READ_IN_LITTLE_MEMORY = """
import sys, tracemalloc
from captionkit.data.layouts import open_dataset
from captionkit.data.images import open_image
tracemalloc.start()
dataset = open_dataset(sys.argv[1])
assert len(dataset["all"]) == 20_000 and not dataset.problems
held, peak = tracemalloc.get_traced_memory()
assert held < 20e6 and peak < 30e6, (held, peak)  # under 1 kB an image; their files have 4.3
tracemalloc.reset_peak()
for example in dataset["all"][::40]:
    assert example.captions == (f"image number {example.name[:9]}",)
    assert open_image(example.image).size == (8, 6)
assert tracemalloc.get_traced_memory()[1] < held + 2e6, held
"""


# --- the guide ---


def test_the_commands_of_the_guide_make_shards_of_a_coco_dataset(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    shell = next(block for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL) if "tar -cf" in block)
    (python,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "images").mkdir()
    for path in data.iterdir():
        place = tmp_path if path.suffix == ".json" else tmp_path / "images"
        image = Image.open(path).convert("RGB") if path.suffix == ".png" else None
        if image:
            image.save(place / f"{path.stem}.jpg", quality=95)
        else:
            (place / path.name).write_text(path.read_text().replace(".png", ".jpg"))
    monkeypatch.chdir(tmp_path)
    exec(compile(python, "scale.md", "exec"), {})
    for path in (tmp_path / "images").glob("*.jpg"):
        if not path.with_suffix(".txt").exists():  # a validation image
            path.unlink()
    assert "split -l 2000" in shell
    subprocess.run(["bash", "-e", "-c", shell.replace("split -l 2000", "split -l 5")], check=True)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [f"train-00000{n}.tar" for n in range(3)]
    made, wanted = open_dataset(tmp_path, layout="shards"), open_dataset(data)["train"]
    assert not made.problems
    captions = {example.id: example.captions for example in made["train"]}
    assert captions == {Path(example.name).stem: example.captions for example in wanted}


# --- the order of training ---

np = pytest.importorskip("numpy")
pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")


def shapes_in_shards(root: Path, data: Path, shard: int = 5) -> Path:
    """The dataset of coloured shapes at `data`, as shards of a few images each."""
    for split, examples in open_dataset(data).items():
        listed = list(examples)
        for start in range(0, len(listed), shard):
            members = {}
            for e in listed[start : start + shard]:
                members |= {e.name: e.image.read_bytes(), f"{Path(e.name).stem}.txt": "\n".join(e.captions).encode()}
            write(root / f"{split}-{start:06d}.tar", members)
    return root


def plan_of(shards: list[int], **changes: object):
    from captionkit.training.data.sampler import EpochSampler
    from shapes import make_recipe

    recipe = make_recipe("mobilenet-v2", {"trainer.batch_size": 10, **changes})
    return EpochSampler(len(shards), recipe, shards=shards)


def test_shards_are_read_nearly_in_order_and_mixed() -> None:
    shards = [n // 1000 for n in range(30_000)]
    plan = plan_of(shards, **{"trainer.epochs": 2})
    epochs = []
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        epochs.append(np.concatenate([plan.images_of(step)[1] for step in steps]))
    for order in epochs:
        assert sorted(order) == list(range(30_000))
        for start in range(0, 30_000, 500):
            batch = order[start : start + 500]
            assert len(set(batch // 1000)) >= 6  # from several shards
        # Of a shard's images, those that follow one another lie near, as read from a random place on and round.
        steps = [np.diff(order[order // 1000 == shard]) for shard in range(30)]
        apart = np.abs(np.concatenate(steps))
        apart = np.minimum(apart, 1000 - apart)
        assert np.mean(apart) < 350 and np.percentile(apart, 99) < 512 + 8
        touched = [len(set(order[start : start + 4000] // 1000)) for start in range(0, 30_000, 4000)]
        assert max(touched) <= 16  # two groups of shards at most; a permutation touches all 30
    assert not np.array_equal(*epochs)
    small = plan_of([n // 7 for n in range(40)])
    assert sorted(np.concatenate([small.images_of(step)[1] for step in range(4)])) == list(range(40))


def test_shards_give_the_same_steps_whatever_the_parts_and_processes() -> None:
    from captionkit.training.data.sampler import EpochSampler
    from shapes import make_recipe

    shards = [n // 9 for n in range(100)]
    whole = plan_of(shards, **{"trainer.epochs": 2})
    for parts, processes in ((2, 1), (3, 2)):
        recipe = make_recipe(
            "mobilenet-v2",
            {"trainer.batch_size": 10, "trainer.epochs": 2, "trainer.gradient_accumulation_steps": parts},
        )
        plans = [EpochSampler(100, recipe, processes=processes, rank=rank, shards=shards) for rank in range(processes)]
        shares = [list(plan.keys(7)) for plan in plans]
        for number, step in enumerate(whole.keys(7)):
            met = [key for share in shares for keys in share[number * parts : (number + 1) * parts] for key in keys]
            assert sorted(met) == sorted(step)


@pytest.mark.slow
def test_a_run_on_shards_is_resumed_in_the_middle_of_an_epoch_bit_for_bit(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    from safetensors.torch import load_file

    from captionkit.data.run_files import LAST
    from captionkit.training.train_step import TrainStep
    from captionkit.training.trainer import train
    from shapes import make_recipe

    monkeypatch.setitem(sys.modules, "onnx", None)
    root = shapes_in_shards(tmp_path / "data", data)
    recipe = make_recipe(
        backbone, {"encoder.train": "all", "image.random_resized_crop_scale": 0.6, "data.num_workers": 2}
    )
    original = TrainStep.step

    def interrupted(self, at: int, pictures):
        if at == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, at, pictures)

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(root, tmp_path / "run", recipe)
    assert train(root, tmp_path / "run", resume=True).steps == 6
    train(root, tmp_path / "alone", recipe)
    one, other = (load_file(tmp_path / run / LAST) for run in ("run", "alone"))
    assert one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)
