"""From a recipe, a dataset and perhaps a model to start from, to everything that training needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from captionkit.bundle import open_model
from captionkit.datasets import CaptionSet, Dataset, open_dataset
from captionkit.errors import RecipeError, TrainingError
from captionkit.images import Preprocessing
from captionkit.models.backbones import load_backbone
from captionkit.models.captioning import CaptioningModel, ModelConfig
from captionkit.models.encoder import Encoder, EncoderConfig, build_encoder
from captionkit.models.mobilenets import MobileNet
from captionkit.models.show_attend_tell import ShowAttendTellConfig
from captionkit.models.stored import load_model
from captionkit.text import Text
from captionkit.training.recipe import EncoderRecipe, Recipe


@dataclass(frozen=True)
class Setup:
    """What a run works with."""

    train: CaptionSet
    val: CaptionSet
    text: Text
    model: CaptioningModel
    preprocessing: Preprocessing


def prepare(recipe: Recipe, data: Path) -> Setup:
    """Read the captions, build or load the vocabulary and the model, freeze what the recipe freezes."""
    torch.manual_seed(recipe.run.seed)
    train, val = _splits(open_dataset(data), recipe)
    if not recipe.run.init:
        captions = [caption for example in train for caption in example.captions]
        data_ = recipe.data
        text = Text.train(
            captions, kind=data_.tokenizer, min_frequency=data_.min_frequency, vocab_size=data_.vocab_size
        )
        encoder, config = _encoder(recipe)
        expected = encoder.preprocessing()
        model = CaptioningModel(_model_config(recipe, config), len(text), encoder=encoder)
    else:
        folder = open_model(recipe.run.init)
        text, expected = folder.text, folder.preprocessing
        model = _with_dropout(load_model(folder), recipe)
    train_from = {"frozen": None, "stages": recipe.encoder.first_stage, "all": 0}[recipe.encoder.train]
    model.encoder.train_from(train_from)
    return Setup(train, val, text, model, _preprocessing(expected, recipe, keep_fit=bool(recipe.run.init)))


def _splits(dataset: Dataset, recipe: Recipe) -> tuple[CaptionSet, CaptionSet]:
    wanted = recipe.data
    if wanted.train_split in dataset or "all" not in dataset:
        train = dataset.split(wanted.train_split)
    else:
        train = dataset.split("all")
    train = _captioned(train)
    if wanted.val_split in dataset:
        return train, _captioned(dataset.split(wanted.val_split))
    if len(train) < 2:
        raise TrainingError(f"{dataset.root}: one captioned picture is too few to train and validate; add more")
    return train.split_off(wanted.holdout, recipe.run.seed)


def _captioned(captions: CaptionSet) -> CaptionSet:
    kept = [index for index, example in enumerate(captions) if example.captions]
    if not kept:
        raise TrainingError(f"{captions.name}, split {captions.split}: no picture has a caption; nothing to learn from")
    return captions.subset(kept)


def _encoder(recipe: Recipe) -> tuple[Encoder, EncoderConfig]:
    wanted = recipe.encoder
    if "/" in wanted.name or Path(wanted.name).is_dir():
        encoder, config = load_backbone(EncoderConfig(wanted.name), pretrained=wanted.pretrained)
        return encoder, config
    if wanted.weights and not wanted.weights.endswith(".safetensors"):
        return _encoder_of(wanted)
    config = EncoderConfig(wanted.name, batch_norm=not wanted.weights)
    encoder = build_encoder(config)
    if wanted.weights:
        if not isinstance(encoder, MobileNet):
            raise RecipeError(f"encoder.weights: {wanted.name} has no published weights to load; leave it empty")
        encoder.load_published(wanted.weights)
    elif wanted.train != "all":
        raise RecipeError(
            "encoder.weights is empty, so the encoder is random; name a file of weights, or set encoder.train to 'all'"
        )
    return encoder, config


def _encoder_of(wanted: EncoderRecipe) -> tuple[Encoder, EncoderConfig]:
    """The encoder of a captioning model."""
    model = load_model(open_model(wanted.weights))
    if model.config.encoder.name != wanted.name:
        raise RecipeError(
            f"encoder.weights: the encoder of {wanted.weights} is {model.config.encoder.name}, not {wanted.name}; "
            "change encoder.name, or name other weights"
        )
    return model.encoder, model.config.encoder


def _model_config(recipe: Recipe, encoder: EncoderConfig) -> ModelConfig:
    d = recipe.decoder
    decoder = ShowAttendTellConfig(d.name, d.embedding, d.hidden, d.attention, d.dropout)
    return ModelConfig(encoder, decoder, memory=d.memory, feature_dropout=d.feature_dropout)


def _with_dropout(model: CaptioningModel, recipe: Recipe) -> CaptioningModel:
    model.neck[0].p = recipe.decoder.feature_dropout
    model.decoder.dropout.p = recipe.decoder.dropout
    decoder = replace(model.config.decoder, dropout=recipe.decoder.dropout)
    model.config = replace(model.config, decoder=decoder, feature_dropout=recipe.decoder.feature_dropout)
    return model


def _preprocessing(expected: Preprocessing, recipe: Recipe, *, keep_fit: bool) -> Preprocessing:
    image = recipe.image
    return replace(
        expected,
        height=image.height or expected.height,
        width=image.width or expected.width,
        fit=expected.fit if keep_fit else image.fit,
    )
