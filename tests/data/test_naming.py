"""`captionkit name`: captions of class folders that say the name of the class in a sentence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from test_datasets import touch

import captionkit
from captionkit.cli import main as cli
from captionkit.cli.name import name_images, named
from captionkit.data.layouts import open_dataset
from captionkit.errors import CaptionkitError

ASSETS = Path(captionkit.__file__).parent / "assets" / "examples"


def make_cats(root: Path) -> Path:
    """A cat and a man as two classes of cat, each of which is learnt and validated."""
    for split in ("train", "valid"):
        for name, photo in (("EGYPTIAN CAT", "cat.jpg"), ("Tabby", "camera.jpg")):
            (root / split / name).mkdir(parents=True)
            shutil.copy(ASSETS / photo, root / split / name / photo)
    return root


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("a cat is lying on a bed", "an egyptian mau is lying on a bed"),
        ("an orange cat 's paw", "an orange egyptian mau 's paw"),
        ("a small black and white cat", "a small black and white egyptian mau"),
        ("the cat", "the egyptian mau"),
        ("a small brown and white long haired cat", None),
        ("a dog is standing in front of a cat", None),
        ("a cat and a cat", None),
        ("a wildcat , a cat-flap and cats", None),
        ("a dog", None),
    ],
)
def test_the_name_takes_the_place_of_the_noun_that_a_sentence_is_about(sentence: str, said: str | None) -> None:
    assert named(sentence, "cat", "egyptian mau") == said
    if said:
        assert named(sentence.replace("cat", "big.cat"), "big.cat", "egyptian mau") == said


def test_class_folders_become_a_table_of_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_cats(tmp_path / "cats")
    assert cli.main(["name", str(root), "--noun", "cat"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and f"captionkit: {root}/captions.csv: 4 images, " in err
    dataset = open_dataset(root)
    assert (dataset.layout, dataset.problems) == ("csv", [])
    for split in ("train", "val"):
        assert [example.label for example in dataset[split]] == ["egyptian cat", "tabby"]
        assert all(example.image.is_file() for example in dataset[split])
        for example in dataset[split]:
            assert all(example.label in caption for caption in example.captions)
    first = dataset["train"][0]
    assert len(first.captions) == 1 and len(first.captions[0].split()) > 3  # a sentence, and no template
    assert dataset["val"][0].captions == first.captions
    before = (root / "captions.csv").read_bytes()
    assert cli.main(["name", str(root), "--noun", "dog"]) == 1
    assert "captions.csv: is there already, and is not written over" in capsys.readouterr().err
    assert (root / "captions.csv").read_bytes() == before


def test_an_image_that_cannot_be_read_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_cats(tmp_path)
    (root / "train/Tabby/broken.jpg").write_bytes(b"no image")
    assert cli.main(["name", str(root), "--noun", "cat"]) == 1
    err = capsys.readouterr().err
    assert "broken.jpg" in err and "4 images" in err and "1 left out" in err
    assert "broken" not in (root / "captions.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("noun", "said"), [("hyrax", "the model's vocabulary lacks 'hyrax'"), (" ", "' ' has no words; leave it out")]
)
def test_a_noun_that_the_model_lacks_is_named_and_nothing_written(noun: str, said: str, tmp_path: Path) -> None:
    root = make_cats(tmp_path)
    with pytest.raises(CaptionkitError) as caught:
        name_images(root, noun)
    assert said in str(caught.value) and not (root / "captions.csv").exists()


def test_what_is_no_folder_of_classes_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "flat", ["1.jpg", "2.jpg"])
    for place, said in (
        (tmp_path / "flat", "not in the layout 'classes'"),
        (tmp_path / "no", "no such file or folder"),
    ):
        with pytest.raises(CaptionkitError, match=said):
            name_images(place, "cat")


def test_a_folder_that_cannot_be_written_is_known_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_cats(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    monkeypatch.setattr("captionkit.inference.load.load", lambda *_, **__: pytest.fail("captioned"))
    with pytest.raises(CaptionkitError, match="cannot be written, and"):
        name_images(root, "cat")
