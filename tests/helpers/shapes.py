"""A small real dataset and a small real backbone, for the tests of training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw

from captionkit.training.config.recipe import Recipe, load_recipe

COLOURS = ("red", "green", "blue", "gold", "black")
SHAPES = ("circle", "square", "bar")
PICTURES = list(product(COLOURS, SHAPES))


def draw(colour: str, shape: str) -> Image.Image:
    """A coloured shape on light grey."""
    image = Image.new("RGB", (48, 40), "#dddddd")
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((8, 4, 40, 36), fill=colour)
    elif shape == "square":
        pen.rectangle((10, 6, 38, 34), fill=colour)
    else:
        pen.rectangle((2, 16, 46, 24), fill=colour)
    return image


def captions(colour: str, shape: str) -> list[str]:
    """Two captions of an image."""
    return [f"a {colour} {shape}", f"there is a {colour} {shape} on grey paper"]


def make_shapes(root: Path, *, train: int = 12, val: int = 3, each: int = 2) -> Path:
    """A dataset in COCO's layout with `each` captions an image; without `val`, in one piece."""
    root.mkdir(parents=True)
    numbered = list(enumerate(PICTURES))
    splits = {"_train": numbered[:train], "_val": numbered[train : train + val]} if val else {"": numbered[:train]}
    for split, pictures in splits.items():
        images, annotations = [], []
        for number, (colour, shape) in pictures:
            name = f"{colour}-{shape}.png"
            draw(colour, shape).save(root / name)
            images.append({"id": number, "file_name": name})
            annotations += [{"image_id": number, "caption": caption} for caption in captions(colour, shape)[:each]]
        content = {"images": images, "annotations": annotations}
        (root / f"captions{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def make_halves(root: Path) -> Path:
    """Six images to learn, without a validation split, of two colours side by side and told of by their sides."""
    root.mkdir(parents=True)
    images, annotations = [], []
    for number, (left, right) in enumerate([(a, b) for a in COLOURS[:3] for b in COLOURS[:3] if a != b]):
        image = Image.new("RGB", (48, 40), left)
        image.paste(right, (24, 0, 48, 40))
        image.save(root / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        told = [f"{left} paper on the left", f"{right} paper on the right", f"{right} paper right of {left} paper"]
        annotations += [{"image_id": number, "caption": caption} for caption in told]
    content = {"images": images, "annotations": annotations}
    (root / "captions_train.json").write_text(json.dumps(content), encoding="utf-8")
    return root


#: all that varies the training captions and images, but for what keeps a frozen encoder from looking once
VARIED = {
    "data.captions_per_image": 1,
    "data.token_dropout": 0.2,
    "image.flip": "true",
    "image.flip_swap": "true",
    "loss.scheduled_sampling": 0.5,
}


def make_backbone(root: Path) -> Path:
    """A residual network of 10 thousand parameters: an image of 32 x 32 becomes a grid of 4 x 4 x 16."""
    import torch
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(root)
    return root


def make_recipe(backbone: Path | str, changes: Mapping[str, object] | None = None) -> Recipe:
    """A recipe for a model that trains in seconds; with `trainer.init`, that model brings encoder and sizes."""
    values: dict[str, object] = {
        "data.min_freq": 1,
        "image.height": 32,
        "image.width": 32,
        "encoder.name": backbone,
        "decoder.embedding": 16,
        "decoder.hidden": 24,
        "decoder.attention": 8,
        "decoder.memory": 16,
        "decoder.dropout": 0.1,
        "trainer.epochs": 2,
        "trainer.batch_size": 4,
        "optimizer.warmup": 2,
        "trainer.min_steps_per_epoch": 1,
        "optimizer.lr_decoder": 3e-3,
        "optimizer.lr_encoder": 1e-3,
        "trainer.ema_decay": 0.9,
        "trainer.log_samples": 1,
        "trainer.report": "false",  # which takes longer than the training
    }
    if "trainer.init" in (changes or {}):
        values = {name: value for name, value in values.items() if not name.startswith(("encoder.", "decoder."))}
    values.update(changes or {})
    return load_recipe(None, {name: str(value) for name, value in values.items()})
