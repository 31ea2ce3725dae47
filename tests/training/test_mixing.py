"""Several datasets in one run, each shown as often as its weight says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

from PIL import Image
from safetensors.torch import load_file

from captionkit.cli import main as cli
from captionkit.data.run_files import LAST
from captionkit.errors import DatasetError, RecipeError, TrainingError
from captionkit.inference.model_folder import open_model
from captionkit.training import run_setup, trainer
from captionkit.training.data import feature_cache
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.run.run_dir import RunFolder
from captionkit.training.trainer import train
from shapes import make_recipe
from tiers import slow

pytestmark = pytest.mark.usefixtures("alone")


def make_plain(root: Path, colour: tuple[int, int, int], pictures: int, word: str, *, val: int = 0) -> Path:
    """Images of one colour in COCO's layout, numbered from 0 and named alike whatever the colour."""
    root.mkdir(parents=True)
    for split, start, count in (("train", 0, pictures), ("val", pictures, val)):
        images = [{"id": n, "file_name": f"{n:03}.png"} for n in range(start, start + count)]
        for image in images:
            Image.new("RGB", (16, 16), colour).save(root / image["file_name"])
        told = [{"image_id": image["id"], "caption": f"a {word} paper {image['id']}"} for image in images]
        if count:
            (root / f"captions_{split}.json").write_text(json.dumps({"images": images, "annotations": told}))
    return root


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two datasets with the same ids and file names; the second has no validation split."""
    return [
        make_plain(tmp_path / "reds" / "set", (255, 0, 0), 6, "red", val=2),
        make_plain(tmp_path / "blues" / "set", (0, 0, 255), 10, "blue"),
    ]


def shown(plan: EpochSampler) -> list[list[tuple[int, int]]]:
    """(turn, index) of each image of each epoch."""
    steps = [list(zip(*map(np.ndarray.tolist, plan.images_of(step)), strict=True)) for step in range(plan.steps)]
    size = plan.steps_per_epoch
    return [sum(steps[start : start + size], []) for start in range(0, plan.steps, size)]  # noqa: RUF017


@pytest.mark.parametrize(
    ("weights", "epoch"),
    [
        ("", (6, 10)),
        ("2,0.5", (12, 5)),
        ("0.5,1.5", (3, 15)),
        ("1,0.25", (6, 2)),
        ("0.01,3", (1, 30)),
        ("1,0.7", (6, 7)),
    ],
)
def test_an_epoch_shows_the_pictures_of_a_dataset_as_often_as_its_weight_says(
    weights: str, epoch: tuple[int, int]
) -> None:
    recipe = make_recipe("mobilenet-v2", {"data.weights": weights, "trainer.epochs": 12})
    plan = EpochSampler([6, 10], recipe)
    counts: Counter = Counter()
    seen: set[tuple[int, int]] = set()
    orders = shown(plan)
    for keys in orders:
        first = [key for key in keys if key[1] < 6]
        assert (len(first), len(keys) - len(first)) == epoch
        assert not seen & set(keys) and len(set(keys)) == len(keys)  # an image comes back in another turn
        seen |= set(keys)
        for many, some, part in ((6, epoch[0], first), (10, epoch[1], [key for key in keys if key[1] >= 6])):
            times = Counter(index for _, index in part)
            if some <= many:
                assert set(times.values()) == {1}
            else:
                assert set(times.values()) <= {some // many, -(-some // many)} and len(times) == many
        counts.update(index for _, index in keys)
    assert len(orders) == 12 and orders[0] != sorted(orders[0])
    for part, some in ((range(6), epoch[0]), (range(6, 16), epoch[1])):
        times = [counts[index] for index in part]
        assert sum(times) == 12 * some and max(times) - min(times) <= 1
        assert sorted(turn for turn, index in seen if index == part[0]) == list(range(counts[part[0]]))


def test_without_weights_several_datasets_are_one() -> None:
    recipe = make_recipe("mobilenet-v2", {"trainer.seed": 3})
    assert shown(EpochSampler([6, 10], recipe)) == shown(EpochSampler(16, recipe))
    turns = {turn for keys in shown(EpochSampler([6, 10], recipe))[1:] for turn, _ in keys}
    assert turns == {1}


def test_halves_are_fresh_and_parts_and_processes_share_them() -> None:
    recipe = make_recipe("mobilenet-v2", {"data.weights": "0.5,1", "trainer.epochs": 4})
    orders = [{index for _, index in keys if index < 6} for keys in shown(EpochSampler([6, 10], recipe))]
    assert orders[0] | orders[1] == orders[2] | orders[3] == set(range(6)) and not orders[0] & orders[1]
    whole = [key for keys in EpochSampler([6, 10], recipe).keys(2) for key in keys]
    ranks = [list(EpochSampler([6, 10], recipe, processes=2, rank=rank).keys(2)) for rank in range(2)]
    assert [key for step in zip(*ranks, strict=True) for keys in step for key in keys] == whole


def test_all_datasets_are_learnt_and_the_first_validates(pair: list[Path], backbone: Path) -> None:
    made = run_setup.prepare(make_recipe(backbone, {"data.weights": "1,0.1", "data.min_freq": 2}), pair)
    assert [len(source.train) for source in made.sources] == [6, 10] and len(made.train) == 16
    assert {caption.split()[1] for example in made.train[6:] for caption in example.captions} == {"blue"}
    assert {example.captions[0].split()[1] for example in made.val} == {"red"} and len(made.val) == 2
    assert made.tokenizer.unk_id not in made.tokenizer.encode("a red blue paper")  # of all, whatever their weights
    swapped = run_setup.prepare(make_recipe(backbone, {"data.val_fraction": 0.2}), pair[::-1])
    assert len(swapped.val) == 2 and {e.captions[0].split()[1] for e in swapped.val} == {"blue"}
    assert [len(source.train) for source in swapped.sources] == [8, 6]  # of the others nothing is held out


@pytest.mark.slow
def test_pictures_of_equal_ids_and_names_are_told_apart(pair: list[Path], backbone: Path, tmp_path: Path) -> None:
    """A frozen encoder's kept features are those of the image with these captions, and serve other mixes too."""
    recipe = make_recipe(backbone, {"trainer.epochs": 1, "image.flip": "true"})
    computed: list[int] = []
    original = feature_cache._compute

    def counted(encoder, captions, *rest):
        computed.append(len(captions))
        return original(encoder, captions, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(feature_cache, "_compute", counted)
        train(pair, tmp_path / "run", recipe)
        assert computed == [6, 10, 2]
        train(pair[::-1], tmp_path / "other", make_recipe(backbone, {"trainer.epochs": 1, "data.val_fraction": 0.2}))
        assert computed[3:] == [8, 6, 2]  # another holdout and one view; and of those images nothing is mixed up
        del computed[:]
        train(pair[0], tmp_path / "alone", recipe)
        assert computed == []
    run = trainer._Trainer(recipe, pair, RunFolder(tmp_path / "third"), False, None, False)
    train_set = run.train_step.dataset
    encoder = run.setup.model.encoder.eval()
    assert train_set.features.shape == (16, 2, 16, 16)
    import torch

    from captionkit.data.images import load_image

    for index in (0, 5, 6, 15):
        word = text_of(train_set, index)
        colour = {"red": (255, 0, 0), "blue": (0, 0, 255)}[word]
        pixels = load_image(Image.new("RGB", (16, 16), colour), run.setup.preprocessing)
        with torch.inference_mode():
            wanted = encoder(torch.from_numpy(pixels)[None])[0]
        np.testing.assert_allclose(train_set.features[index, 1], wanted, rtol=1e-2, atol=1e-4)
    run.folder.close()


def text_of(train_set, index: int) -> str:
    return train_set.tokenizer.decode(train_set.tokens[index][0]).split()[1]


@pytest.mark.parametrize("frozen", [True, *slow(False)])
def test_an_unreadable_picture_of_the_second_dataset_is_named_and_no_other(
    pair: list[Path], backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], frozen: bool
) -> None:
    (pair[1] / "003.png").write_bytes(b"not an image")
    changes = {} if frozen else {"encoder.train": "all"}
    train(pair, tmp_path / "run", make_recipe(backbone, {"trainer.epochs": 1, **changes}))
    left_out = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 1 and str(pair[1] / "003.png") in left_out[0]


@pytest.mark.slow
def test_the_report_names_all_datasets_and_the_problems_of_each(
    pair: list[Path], backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in pair:
        (folder / "001.png").unlink()
    recipe = make_recipe(backbone, {"trainer.epochs": 1, "data.weights": "2,0.5"})
    train(pair, tmp_path / "run", recipe)
    said = capsys.readouterr().err
    assert f"{pair[0]}: 5 training images, 10 shown in an epoch" in said
    assert f"{pair[1]}: 9 training images, 4 shown in an epoch" in said
    for folder in pair:
        assert re.search(rf"problems in the data: 1, .*001\.png.*`captionkit inspect {folder}` names", said)
    provenance = open_model(tmp_path / "run/best").config["provenance"]
    assert [(one["name"], one["images"], one["an_epoch"]) for one in provenance["data"]["mixed"]] == [
        ("set", 5, 10),
        ("set", 9, 4),
    ]
    made = run_setup.prepare(recipe, pair)
    assert provenance["data"]["fingerprint"] == made.train.fingerprint()
    assert [one["fingerprint"] for one in provenance["data"]["mixed"]] == [s.train.fingerprint() for s in made.sources]
    command = shlex.split(provenance["command"])
    assert command[:5] == ["captionkit", "train", *map(str, pair), "--output"]
    card = (tmp_path / "run/best/README.md").read_text(encoding="utf-8")
    assert provenance["command"] in card and "set + set" in card
    command[5] = str(tmp_path / "again")
    assert cli.main(command[1:]) == 0
    one, other = load_file(tmp_path / "run" / LAST), load_file(tmp_path / "again" / LAST)
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.slow
def test_a_mix_is_resumed_and_another_one_refused(
    pair: list[Path], backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(backbone, {"data.weights": "1.5,0.5", "trainer.checkpoint_every": 0})
    train(pair, tmp_path / "whole", recipe)
    original = trainer._Trainer._step

    def stopped(self, step: int, pictures) -> None:
        if step == 3:
            raise KeyboardInterrupt
        original(self, step, pictures)

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(trainer._Trainer, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(pair, run, recipe)
    refused = "another recipe, dataset or captionkit"
    other = make_plain(tmp_path / "greens", (0, 255, 0), 10, "green")
    retold = Path(shutil.copytree(pair[1], tmp_path / "retold"))  # of the same words, two captions change places
    content = json.loads((retold / "captions_train.json").read_text())
    one, two = content["annotations"][:2]
    one["caption"], two["caption"] = two["caption"], one["caption"]
    (retold / "captions_train.json").write_text(json.dumps(content))
    for datasets in (pair[::-1], [pair[0], other], [pair[0], retold]):
        with pytest.raises(TrainingError, match=refused):
            train(datasets, run, resume=True)
    for datasets in (pair[0], [*pair, other]):
        with pytest.raises(RecipeError, match=r"data\.weights = '1\.5,0\.5': .*as many weights"):
            train(datasets, run, resume=True)
    recipe_file = run / "recipe.toml"
    kept = recipe_file.read_text()
    recipe_file.write_text(kept.replace("0.5", "0.7"))
    with pytest.raises(TrainingError, match=refused):
        train(pair, run, resume=True)
    recipe_file.write_text(kept)
    train(pair, run, resume=True)
    one, whole = load_file(run / LAST), load_file(tmp_path / "whole" / LAST)
    assert all((one[name] == whole[name]).all() for name in whole)


def test_what_cannot_be_mixed_is_said_in_a_line(pair: list[Path], backbone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    link = tmp_path / "link"
    link.symlink_to(pair[0])
    empty = tmp_path / "empty"
    empty.mkdir()
    untold = make_plain(tmp_path / "untold", (0, 0, 0), 2, "black")
    (untold / "captions_train.json").write_text(
        json.dumps({"images": [{"id": 0, "file_name": "000.png"}], "annotations": []})
    )
    for datasets, weights, error, said in (
        ([pair[0], pair[1], pair[0]], "", TrainingError, r"set: named twice; name it once.*data\.weights"),
        ([pair[0], link], "", TrainingError, r"link: named twice"),
        (pair, "1", RecipeError, r"data\.weights = '1\.0': 2 DATA want as many weights"),
        (pair, "1,2,3", RecipeError, r"2 DATA want as many weights"),
        ([pair[0], empty], "", DatasetError, r"empty.*no known dataset layout"),
        ([pair[0], untold], "", TrainingError, r"untold, .*no image has a caption"),
        ([], "", TrainingError, r"no dataset to train on; name at least one"),
    ):
        with pytest.raises(error, match=said) as caught:
            train(datasets, run, make_recipe(backbone, {"data.weights": weights}))
        assert "\n" not in str(caught.value)
    assert not run.exists()


def test_the_command_line_takes_several(
    pair: list[Path], backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = make_recipe(backbone, {"trainer.epochs": 1}).to_flags()
    first, second = map(str, pair)
    assert cli.main(["train", first, second, "--output", str(tmp_path / "run"), *flags]) == 0
    assert "16 training and 2 validation images" in capsys.readouterr().err
    weights = ["--data.weights", "1,0"]
    assert cli.main(["train", first, second, "--output", str(tmp_path / "two"), *flags, *weights]) == 1
    assert re.fullmatch(
        r"captionkit: command line: data\.weights\.1 = '0': .*greater than 0\n", capsys.readouterr().err
    )
    shutil.rmtree(pair[1])
    assert cli.main(["train", first, second, "--output", str(tmp_path / "three"), *flags]) == 1
    assert capsys.readouterr().err == f"captionkit: {second}: no such file or folder\n"
