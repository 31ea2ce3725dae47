"""Names learnt from class folders beside data with sentences, by the recipe for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

from PIL import Image
from test_fine_tuning import tell

from captionkit.data.layouts import open_dataset
from captionkit.training import run_setup
from captionkit.training.config.recipe import Recipe, load_recipe
from captionkit.training.trainer import train
from kept import rows
from shapes import draw, make_recipe, make_shapes

pytestmark = pytest.mark.usefixtures("alone")

KINDS = (("gold", "circle"), ("gold", "bar"), ("black", "square"), ("black", "bar"))


def make_kinds(root: Path) -> Path:
    """Four kinds of shapes, of other colours than those with sentences, under veils of several greys."""
    for split, greys in (("train", (0, 40, 80)), ("valid", (20, 60))):
        for number, (colour, shape) in enumerate(KINDS):
            folder = root / split / f"GREATER WUG{number}"
            folder.mkdir(parents=True)
            for grey in greys:
                paper = Image.new("RGB", (48, 40), (200 - grey,) * 3)
                Image.blend(draw(colour, shape), paper, 0.2).save(folder / f"{grey}.png")
    return root


@pytest.mark.slow
def test_names_are_learnt_and_sentences_kept(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    kinds, everyday = make_kinds(tmp_path / "kinds"), make_shapes(tmp_path / "shapes", train=9, val=3)
    changes = {"trainer.epochs": 40, "optimizer.lr_decoder": 1e-2, "decoder.dropout": 0, "trainer.eval_every": 20,
               "data.weights": "1,2", "decoder.feature_dropout": 0,
               "loss.label_smoothing": 0}  # fmt: skip
    train([kinds, everyday], tmp_path / "run", make_recipe(backbone, changes))
    assert max(row["cider"] for row in rows(tmp_path / "run", "eval")) > 3
    told = tell(tmp_path / "run/best", kinds)
    right = [name.label in caption for name, caption in zip(open_dataset(kinds)["train"], told, strict=True)]
    assert sum(right) >= 10, told
    kept = tell(tmp_path / "run/best", everyday)
    assert sum("wug" not in caption for caption in kept) >= 5, kept


def test_a_name_of_two_images_enters_the_vocabulary(tmp_path: Path, backbone: Path) -> None:
    kinds = make_kinds(tmp_path / "kinds")
    recipe = load_recipe("class-names", {"encoder.name": str(backbone), "image.height": "32", "image.width": "32"})
    made = run_setup.prepare(recipe, [kinds])
    assert {f"wug{number}" for number in range(len(KINDS))} <= set(made.tokenizer.tokens)
    assert len(made.train) == 12 and len(made.val) == 8 and not made.sources[0].problems
    assert made.tokenizer.unk_id not in made.tokenizer.encode("this is a greater wug3")
    assert recipe != Recipe()
