"""Class folders: what is one and what is not, the names and captions that come of them, what is wrong with them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from test_datasets import CASES, touch, write

from captionkit.cli import main as cli
from captionkit.data.layouts import CaptionSet, Dataset, Example, inspect_dataset, open_dataset
from captionkit.data.layouts.class_folders import TEMPLATES, caption_of, name_of
from captionkit.errors import DatasetError
from captionkit.eval import evaluate

CARDINAL = ("a northern cardinal", "a photo of a northern cardinal", "this is a northern cardinal")


def make_birds(root: Path) -> Path:
    """The layout of Kaggle's "BIRDS 525 SPECIES", with its table and its weights."""
    for split, each in (("train", 3), ("valid", 1), ("test", 1)):
        for name in ("NORTHERN CARDINAL", "AMERICAN CROW", "EMU"):
            touch(root / split / name, [f"{number}.jpg" for number in range(each)])
    write(
        root / "birds.csv", "class id,filepaths,labels,data set,scientific name\n0,train/EMU/0.jpg,EMU,train,DROMAIUS\n"
    )
    touch(root, ["EfficientNetB0-525.h5", ".DS_Store"])
    return root


def problems_of(dataset: Dataset) -> list[tuple[str, str]]:
    return [(problem.kind, problem.where) for problem in dataset.problems]


def test_the_folders_of_classes_in_splits_become_captions(tmp_path: Path) -> None:
    dataset = open_dataset(make_birds(tmp_path / "birds"))
    assert (dataset.layout, dataset.problems) == ("classes", [])
    assert {split: len(examples) for split, examples in dataset.items()} == {"train": 9, "val": 3, "test": 3}
    example = dataset["val"][2]
    assert (example.id, example.label) == ("valid/NORTHERN CARDINAL/0.jpg", "northern cardinal")
    assert example.captions == CARDINAL
    assert example.image == tmp_path / "birds/valid/NORTHERN CARDINAL/0.jpg"
    assert dataset["train"][0].captions[1] == "a photo of an american crow"


def test_folders_without_splits_and_the_folder_of_one_split(tmp_path: Path) -> None:
    touch(tmp_path / "flat", ["n02123045-tabby_cat/a.JPEG", "n02099601-golden_retriever/b.JPEG"])
    flat = open_dataset(tmp_path / "flat")
    assert (flat.layout, list(flat), flat.problems[0].kind) == ("classes", ["all"], "class of one image")
    assert [example.captions[0] for example in flat["all"]] == ["a golden retriever", "a tabby cat"]
    part = open_dataset(make_birds(tmp_path / "birds") / "train")
    assert (part.layout, len(part["all"]), part.problems) == ("classes", 9, [])


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("NORTHERN CARDINAL", "northern cardinal"),
        ("northern_cardinal", "northern cardinal"),
        ("northern-cardinal", "northern cardinal"),
        ("NorthernCardinal", "northern cardinal"),
        ("n02123045-tabby_cat", "tabby cat"),
        ("n02123045_Tabby", "tabby"),
        ("n01440764", ""),
        ("American_Crow.012", "american crow"),
        ("001.Black_footed_Albatross", "black footed albatross"),
        ("black-footed_albatross", "black-footed albatross"),
        ("12_moon_orchid", "moon orchid"),
        ("Boeing_747", "boeing 747"),
        ("2012 McLaren", "2012 mclaren"),
        ("tench, Tinca tinca", "tench"),
        ("Grünfink", "grünfink"),
        ("丹顶鹤", "丹顶鹤"),
        ("017", ""),
        ("__", ""),
    ],
)
def test_a_folder_is_called_after_its_class(folder: str, name: str) -> None:
    assert name_of(folder) == name


@pytest.mark.parametrize(
    "said",
    [
        "an emu",
        "an american crow",
        "a european robin",
        "a eurasian jay",
        "a ural owl",
        "an upland sandpiper",
        "a unicorn",
        "an uncle",
        "a ukulele",
        "an hour glass",
        "a heron",
        "an heirloom tomato",
        "an honest man",
        "a house finch",
        "a one-eyed cat",
        "an onion",
        "an x-ray",
        "an f-16",
        "a t-shirt",
        "an 8-ball",
        "an 11 iron",
        "a 1 euro coin",
        "a usb stick",
        "an émeu",
        "a ewe",
        "an urn",
    ],
)
def test_a_name_has_the_article_that_it_sounds_like(said: str) -> None:
    name = said.partition(" ")[2]
    assert caption_of("a {name}", name) == caption_of("an {name}", name) == said
    assert caption_of("An old photo of a {name} and a bee", name) == f"An old photo of {said} and a bee"
    assert caption_of("the {name}", name) == f"the {name}"


def test_own_templates_and_names(tmp_path: Path) -> None:
    touch(tmp_path, ["0/a.jpg", "1/b.jpg", "17/c.jpg", "17/d.jpg"])
    assert open_dataset(tmp_path).layout == "folder"  # numbers name nothing
    write(tmp_path / "names.txt", "0 tench, Tinca tinca\n\n1\tlesser  spotted eagle\n")
    write(tmp_path / "templates.txt", "ein {name}\n\n  an {name} at   the zoo \r\n")
    dataset = open_dataset(tmp_path)
    assert [example.captions for example in dataset["all"]] == [
        ("ein tench", "a tench at the zoo"),
        ("ein lesser spotted eagle", "a lesser spotted eagle at the zoo"),
    ]
    assert ("class without a name", "17") in problems_of(dataset)
    nameless = next(problem for problem in dataset.problems if problem.where == "17")
    assert "names.txt" in nameless.detail and "(images left out: 2)" in nameless.detail


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("templates.txt", "a {name}\na bird\n", "templates.txt, line 2: a template holds {name} once"),
        ("templates.txt", "a {name} or {Name}\n", "templates.txt, line 1: a template holds {name} once"),
        ("templates.txt", "\n\n", "templates.txt: 0 templates; write from 1 to 100"),
        ("templates.txt", "\n".join(f"{n} {{name}}" for n in range(101)), "templates.txt: 101 templates"),
        ("names.txt", "EMU\n", "names.txt, line 1: write a folder, a space or tab, and a name"),
        ("names.txt", "EMU 17\n", "names.txt, line 1: write a folder"),
    ],
)
def test_a_file_that_is_not_as_it_must_be_is_named(file: str, content: str, said: str, tmp_path: Path) -> None:
    write(make_birds(tmp_path) / file, content)
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    assert f"{tmp_path}/{said}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "b.jpg"],
        ["train/a.jpg", "val/b.jpg", "test/c.jpg"],
        ["images/a.jpg", "more/b.jpg"],
        ["emu/a.jpg", "crow/b.jpg", "c.jpg"],
        ["emu/a.jpg", "crow/b.jpg", "crow/young/c.jpg"],
        ["birds/emu/a.jpg", "birds/crow/b.jpg", "fish/tench/c.jpg"],
        ["emu/a.jpg", "emu/b.jpg"],
        ["2023-05 Rome/a.jpg", "2024-01 Oslo/b.jpg"],
        ["20230501/a.jpg", "20240102/b.jpg"],
        ["0/a.jpg", "1/b.jpg", "2/c.jpg"],
        ["emu/a.jpg", "emu/a.txt", "crow/b.jpg", "crow/b.txt"],
        ["emu/a.jpg", "emu/notes.json", "crow/b.jpg"],
        ["train/emu/a.jpg", "train/crow/b.jpg", "val/c.jpg"],
        ["train/a/b/1.jpg", "train/c/d/2.jpg"],
    ],
    ids=" ".join,
)
def test_other_folders_of_images_stay_what_they_are(names: list[str], tmp_path: Path) -> None:
    touch(tmp_path, names)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "folder" and not any(example.captions for example in dataset["all"])
    with pytest.raises(DatasetError, match="not in the layout 'classes'"):
        open_dataset(tmp_path, layout="classes")


@pytest.mark.parametrize("case", CASES)
def test_captions_beside_class_folders_are_read_as_before(case: str, tmp_path: Path) -> None:
    layout, write_it, _ = CASES[case]
    make_birds(tmp_path)
    write_it(tmp_path)
    assert open_dataset(tmp_path).layout == layout


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    make_birds(tmp_path)
    touch(
        tmp_path,
        ["train/Emu/9.jpg", "test/OWL/1.jpg", "valid/ROOK/1.jpg", "valid/ROOK/2.jpg", "images to predict/1.jpg"],
    )
    (tmp_path / "train/EMPTY").mkdir()
    (tmp_path / "train/LINK").symlink_to(tmp_path / "train/EMU")
    write(tmp_path / "more.csv", "photo;what\n1.jpg;a bird\n")
    assert problems_of(open_dataset(tmp_path)) == [
        ("linked folder", "train/LINK"),
        ("empty class", "train/EMPTY"),
        ("classes of one name", "train/EMU, train/Emu"),
        ("class of one image", "owl"),
        ("class without training images", "rook"),
        ("unread folder", "images to predict"),
        ("unread file", "more.csv"),
    ]
    touch(tmp_path / "one", ["train/EMU/1.jpg", "train/EMU/2.jpg"])
    assert problems_of(open_dataset(tmp_path / "one")) == [("one class only", "emu")]


def test_inspect_counts_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_birds(tmp_path)
    touch(tmp_path / "train/EMU", ["7.jpg", "8.jpg"])
    for split in ("valid", "test"):  # equal names of different classes are no shared images
        for number, name in enumerate(("NORTHERN CARDINAL", "AMERICAN CROW", "EMU")):
            write(tmp_path / split / name / "0.jpg", split[0] * (number + 1 + (split == "test")))
    assert cli.main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "classes: 3 (american crow, emu, northern cardinal)" in shown
    assert "train              3 classes, images a class: 3 to 5, median 3" in shown
    assert "images in more than one split: none" in shown
    assert cli.main(["inspect", str(tmp_path), "--json"]) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert splits["train"]["classes"] == {"american crow": 3, "emu": 5, "northern cardinal": 3}
    report = inspect_dataset(open_dataset(tmp_path))
    assert report.splits["val"].captions == 3 * len(TEMPLATES)


def test_a_table_may_state_classes(tmp_path: Path) -> None:
    write(tmp_path / "captions.csv", "image,caption,split,class\na.jpg,an emu runs,train,emu\nb.jpg,a bird,val,\n")
    touch(tmp_path, ["a.jpg", "b.jpg"])
    dataset = open_dataset(tmp_path)
    assert [(e.id, e.label) for split in dataset.values() for e in split] == [("a.jpg", "emu"), ("b.jpg", "")]
    assert "classes: 1 (emu)" in str(inspect_dataset(dataset))


def test_an_evaluation_counts_the_captions_that_name_the_class() -> None:
    told = {
        "1": "A Northern Cardinal's nest",
        "2": "two cardinals",
        "3": "an emulator",
        "4": "a black-footed albatross .",
    }
    labels = {"1": "northern cardinal", "2": "northern cardinal", "3": "emu", "4": "black-footed albatross", "5": "emu"}
    images = CaptionSet("birds", "val", tuple(Example(i, Path(i), (), label) for i, label in labels.items()))
    assert evaluate._named(told, images) == ["captions that name the class of their image: 2 of 4 (50.0%)"]
    assert evaluate._named({"1": "an emu"}, CaptionSet("birds", "val", (Example(1, Path("1"), ("an emu",)),))) == []


def test_a_class_folder_that_cannot_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_birds(tmp_path)
    listed = os.scandir

    def scandir(path: str | Path = "."):
        if Path(path) == tmp_path / "train/EMU":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    dataset = open_dataset(tmp_path)
    assert problems_of(dataset)[0] == ("unreadable folder", "train/EMU") and len(dataset["train"]) == 6
