"""What `inspect_dataset` reports, against counts made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from test_datasets import coco, touch, write, write_coco, write_imagefolder, write_seed

from captionkit.data.layouts import inspect_dataset, open_dataset


def test_counts(tmp_path: Path) -> None:
    write(
        tmp_path / "captions_train.json", coco({"1.jpg": ["A dog runs .", "a Dog !"], "2.jpg": ["the dog's red ball"]})
    )
    write(tmp_path / "captions_val.json", coco({"3.jpg": [], "4.jpg": ["a cat sits on a mat"]}))
    touch(tmp_path, [f"{i}.jpg" for i in range(1, 5)])
    report = inspect_dataset(open_dataset(tmp_path))
    train, val = report.splits["train"], report.splits["val"]
    assert (train.images, train.captions, val.images, val.captions) == (2, 3, 2, 1)
    assert (train.captions_per_image.min, train.captions_per_image.median, train.captions_per_image.max) == (1, 1.5, 2)
    assert (val.captions_per_image.min, val.captions_per_image.max) == (0, 1)
    assert train.lengths == {2: 1, 3: 1, 5: 1}  # "the dog 's red ball": clitics count, punctuation does not
    assert (train.words_per_caption.min, train.words_per_caption.median, train.words_per_caption.max) == (2, 3, 5)
    # a(4) dog(3) runs the 's red ball cat sits on mat
    assert (report.vocabulary, report.seen_once) == (11, pytest.approx(9 / 11))
    assert [(p.kind, p.where) for p in report.problems] == [("image without caption", "3.jpg")]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("Zwei Mädchen grüßen, während es schneit.", 6),
        ("Một con chó đang chạy trên bãi cỏ.", 8),
        ("砂浜で犬が走っている。", 10),
        ("男の人がTシャツを着ている", 13),
    ],
)
def test_words_of_other_languages(caption: str, words: int, tmp_path: Path) -> None:
    write(tmp_path / "captions.txt", f"image,caption\n1.jpg,{caption}\n")
    touch(tmp_path, ["1.jpg"])
    assert inspect_dataset(open_dataset(tmp_path)).splits["all"].lengths == {words: 1}


def test_the_report_in_words_and_as_json(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "000000000009.jpg").unlink()
    report = inspect_dataset(open_dataset(tmp_path))
    text = str(report)
    for line in (
        f"{tmp_path.name}: coco layout, {tmp_path}",
        "images in more than one split: none",
        "problems: 1 (images were not opened)",
        "  missing image: 1 (000000000009.jpg)",
        "    annotations/captions_test.json: not in images/, ./, images/val2017/, train2014/ (captions left out: 20)",
    ):
        assert line in text.splitlines()
    assert "train                3         5" in text
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["splits"]["train"]["captions_per_image"]["max"] == 2
    assert [p["where"] for p in plain["problems"]["missing image"]] == ["000000000009.jpg"]


def test_the_histogram_counts_every_caption(tmp_path: Path) -> None:
    lengths = [1, 5, 6, 10, 11, 39, 41, 200]
    write(tmp_path / "captions.json", coco({"1.jpg": [" ".join(["a"] * length) for length in lengths]}))
    touch(tmp_path, ["1.jpg"])
    report = inspect_dataset(open_dataset(tmp_path))
    assert report.splits["all"].lengths == dict.fromkeys(lengths, 1)
    shares = [
        line.split()[-2 if "#" in line else -1] for line in str(report).splitlines() if "%" in line and "-" in line[:6]
    ]
    more = next(line.split()[3] for line in str(report).splitlines() if "or more" in line)
    assert sum(float(share.rstrip("%")) for share in (*shares, more)) == pytest.approx(100, abs=0.5)


def test_a_dataset_without_captions(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg"])
    report = inspect_dataset(open_dataset(tmp_path))
    assert (report.vocabulary, report.splits["all"].images, report.splits["all"].captions) == (0, 2, 0)
    assert "problems: none (images were not opened)" in str(report)


def test_captions_of_nothing_but_punctuation(tmp_path: Path) -> None:
    write(tmp_path / "captions.txt", "image,caption\n1.jpg,...\n")
    touch(tmp_path, ["1.jpg"])
    report = inspect_dataset(open_dataset(tmp_path))
    assert (report.vocabulary, report.splits["all"].lengths) == (0, {0: 1})


def test_images_in_two_splits(tmp_path: Path) -> None:
    write(tmp_path / "captions_train.json", coco({"1.jpg": ["one"], "2.jpg": ["two"]}))
    write(tmp_path / "captions_val.json", coco({"2.jpg": ["zwei"], "3.jpg": ["drei"]}))
    touch(tmp_path / "images", ["1.jpg", "2.jpg", "3.jpg"])
    report = inspect_dataset(open_dataset(tmp_path))
    assert report.shared_images == {"2.jpg": ["train", "val"]}
    assert "images in more than one split: 1 (2.jpg)" in str(report)


def test_an_equal_name_is_not_yet_the_same_image(tmp_path: Path) -> None:
    """train/1.jpg and val/1.jpg: the same by an equal id (the seed's are COCO's) or by an equal size, else not."""
    write_imagefolder(tmp_path / "hf")
    for split, size in {"train": 5, "validation": 6, "test": 5}.items():
        write(tmp_path / "hf" / split / "metadata.jsonl", '{"file_name": "1.jpg", "text": "x"}')
        (tmp_path / "hf" / split / "1.jpg").write_bytes(b"x" * size)
    assert inspect_dataset(open_dataset(tmp_path / "hf")).shared_images == {"1.jpg": ["train", "test"]}
    write_seed(lambda images: {"42": ["a"]})(tmp_path / "seed")
    for split, size in {"train": 5, "val": 6}.items():
        (tmp_path / "seed" / "data" / split / "image" / "000000000042.jpg").write_bytes(b"x" * size)
    shared = inspect_dataset(open_dataset(tmp_path / "seed")).shared_images
    assert shared == {"000000000042.jpg": ["train", "val"]}


def test_broken_images_are_named_when_they_are_opened(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "green").save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:-200])
    touch(tmp_path, ["empty.png"])
    dataset = open_dataset(tmp_path)
    assert inspect_dataset(dataset).problems == [] and inspect_dataset(dataset).sound
    report = inspect_dataset(dataset, check_images=True)
    assert [(p.kind, p.where) for p in report.problems] == [("broken image", "cut.jpg"), ("broken image", "empty.png")]
    assert "problems: 2 (every image was opened)" in str(report)
    assert not report.sound
    assert dataset.problems == []


def test_names_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": name} for i, name in enumerate(["\x1b[2J.jpg", "a\nb.jpg", "\udc80.jpg"])]
    write(tmp_path / "captions.json", json.dumps({"images": images, "annotations": []}))
    text = str(inspect_dataset(open_dataset(tmp_path)))
    assert text.encode() and "\x1b" not in text
    assert r"missing image: 3 ('\x1b[2J.jpg', 'a\nb.jpg', '\udc80.jpg')" in text


def test_the_vocabulary_of_a_real_dataset(shared: Path) -> None:
    """UCM's captions are ASCII with spaces around the punctuation: splitting at spaces counts their words, too."""
    report = inspect_dataset(open_dataset(shared / "data" / "ucm-captions"))
    counts: Counter[str] = Counter()
    for split in ("train", "val"):
        content = json.loads((shared / "data" / "ucm-captions" / f"captions_{split}.json").read_bytes())
        for annotation in content["annotations"]:
            counts.update(word for word in annotation["caption"].lower().split() if word not in (".", ","))
    assert abs(report.vocabulary - len(counts)) <= 5
    assert sum(length * n for split in report.splits.values() for length, n in split.lengths.items()) == pytest.approx(
        counts.total(), rel=0.002
    )


def test_reading_loads_neither_pillow_nor_tokenizers_nor_torch() -> None:
    code = (
        "import sys, captionkit.data.layouts; "
        "print([m for m in ('PIL', 'tokenizers', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
