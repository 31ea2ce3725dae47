"""Build everything that training needs from a recipe, datasets and optionally a model to start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from captionkit.data.images import Preprocessing
from captionkit.data.layouts import CaptionSet, Dataset, Problem, open_dataset
from captionkit.data.layouts.caption_set import WHOLE
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import RecipeError, TrainingError
from captionkit.inference.model_folder import open_model
from captionkit.models.captioning_model import CaptioningModel, ModelConfig
from captionkit.models.decoder_config import CONFIGS, SIZES, decoder_config
from captionkit.models.encoder import Encoder, EncoderConfig
from captionkit.models.encoder_registry import build_encoder
from captionkit.models.huggingface import load_huggingface_encoder
from captionkit.models.mobilenet import MobileNet
from captionkit.models.resize_vocab import resize_token_embeddings
from captionkit.models.serialization import load_model
from captionkit.models.timm import is_timm, load_timm_encoder, refuse_torchvision
from captionkit.training.clip_monitor import check_clip
from captionkit.training.config.recipe import Recipe, check_decoder_fields, recipe_fields
from captionkit.training.config.schema import DataRecipe, EncoderRecipe
from captionkit.training.data.encode import EncodedCaptions, encode_captions, join_encoded
from captionkit.training.data.flip import check_mirroring
from captionkit.training.optim.optimizers import check_optimizer
from captionkit.utils import paths

#: training captions on which a model is run before its vocabulary grows, to estimate how likely its own words are
_SAMPLED_CAPTIONS = 64
#: new words that are listed in the note about them
_NAMED = 8


@dataclass(frozen=True)
class Source:
    """One of the training datasets of a run."""

    path: Path
    train: CaptionSet
    #: parts of the dataset that could not be used
    problems: Sequence[Problem]


@dataclass(frozen=True)
class Setup:
    """Data, vocabulary, model and preprocessing of a run."""

    #: the training images of all datasets, concatenated
    train: CaptionSet
    val: CaptionSet
    #: the token ids of their captions, by "train" and "val" (see `EncodedCaptions`)
    tokens: Mapping[str, Sequence[Sequence[list[int]]]]
    tokenizer: Tokenizer
    model: CaptioningModel
    preprocessing: Preprocessing
    sources: Sequence[Source]
    #: messages to print when the run starts
    notes: Sequence[str] = ()


def prepare(recipe: Recipe, data: Path | Sequence[Path]) -> Setup:
    """Read the captions, build or load vocabulary and model, and freeze the encoder as the recipe says.

    With several datasets, the first one provides the validation split.
    """
    check_optimizer(recipe.optimizer.name)
    _check_objective(recipe)
    check_clip(recipe)
    torch.manual_seed(recipe.trainer.seed)
    check_mirroring(recipe.image)
    _check_teachers(recipe)
    sources, val = _sources([data] if isinstance(data, Path) else data, recipe)
    train = _joined([source.train for source in sources])
    notes: list[str] = []
    if recipe.trainer.init:
        folder = open_model(recipe.trainer.init)
        model = load_model(folder)
        _check_kept(recipe, model)
        model, expected = _with_encoder(model, folder.preprocessing, recipe, notes)
        tokenizer = _grown(model, folder.tokenizer, train, recipe, notes)
        model.set_dropout(recipe.decoder.dropout, recipe.decoder.feature_dropout)
        _with_concepts(model, tokenizer, train, recipe)
    else:
        tokenizer = _vocabulary(train, recipe)
        encoder, config = _encoder(recipe)
        expected = encoder.preprocessing()
        seen = _preprocessing(expected, recipe, keep_fit=False)
        grid = encoder.grid(seen.height, seen.width)
        model = CaptioningModel(_model_config(recipe, config, grid), len(tokenizer), encoder=encoder)
        _with_concepts(model, tokenizer, train, recipe)
    train_from = {"frozen": None, "stages": recipe.encoder.first_stage, "all": 0}[recipe.encoder.train]
    model.encoder.freeze_norms = recipe.encoder.freeze_norms
    model.encoder.train_from(train_from)
    preprocessing = _preprocessing(expected, recipe, keep_fit=bool(recipe.trainer.init))
    model.encoder.grid(preprocessing.height, preprocessing.width)  # raises now if the encoder does not support the size
    encoded = [encode_captions(source.train, tokenizer) for source in sources]
    sources = [replace(source, train=one.captions) for source, one in zip(sources, encoded, strict=True)]
    training, validation = join_encoded(encoded), _some(encode_captions(val, tokenizer), recipe)
    tokens = {"train": training.tokens, "val": validation.tokens}
    return Setup(training.captions, validation.captions, tokens, tokenizer, model, preprocessing, sources, notes)


def _sources(data: Sequence[Path], recipe: Recipe) -> tuple[list[Source], CaptionSet]:
    """Return the datasets and the validation split of the first; nothing is held out from the others."""
    weights = recipe.data.weights
    if weights and len(weights) != len(data):
        listed = ",".join(map(str, weights))
        raise RecipeError(f"data.weights = {listed!r}: {len(data)} DATA want as many weights; give one for each")
    places = [paths.real(path) for path in data]
    for number, path in enumerate(data):
        if places[number] in places[:number]:
            raise TrainingError(f"{path}: named twice; name it once, with a larger weight in data.weights")
    first = open_dataset(data[0])
    train, val = _splits(first, recipe)
    others = [(path, open_dataset(path)) for path in data[1:]]
    sources = [Source(data[0], train, first.problems)]
    sources += [Source(path, _training_split(dataset, recipe), dataset.problems) for path, dataset in others]
    return sources, val


def _joined(sets: Sequence[CaptionSet]) -> CaptionSet:
    name = " + ".join(captions.name for captions in sets)
    return CaptionSet(name, sets[0].split, tuple(example for captions in sets for example in captions))


def _training_split(dataset: Dataset, recipe: Recipe) -> CaptionSet:
    """Return the training split.

    If the recipe has the default split name and the dataset has no splits, this is the whole dataset.
    """
    wanted, usual = recipe.data, DataRecipe()
    whole = wanted.train_split == usual.train_split and "train" not in dataset and WHOLE in dataset
    return _captioned(dataset.split(WHOLE if whole else wanted.train_split))


def _check_objective(recipe: Recipe) -> None:
    """Raise RecipeError if self-critical training has no model to start from, or is combined with unsuitable fields."""
    if recipe.loss.objective != "self-critical":
        return
    if not recipe.trainer.init:
        raise RecipeError(
            "loss.objective = 'self-critical': needs a model that knows captions already; name it by --init"
        )
    for name in ("data.token_dropout", "loss.scheduled_sampling", "image.flip_swap"):
        if recipe.value(name):
            raise RecipeError(f"{name} = {recipe.value(name)!r}: is for learning people's captions; leave it out")


def _check_teachers(recipe: Recipe) -> None:
    """Raise RecipeError if teachers are combined with unsuitable fields, ModelError if a teacher does not exist."""
    if not recipe.distillation.teachers:
        return
    if recipe.loss.objective == "self-critical":
        raise RecipeError("distillation.teachers: are for learning people's captions, by cross-entropy; leave them out")
    if recipe.image.flip_swap:
        raise RecipeError("distillation.teachers: know the captions as they are; leave out image.flip_swap")
    for name in recipe.distillation.teachers:
        open_model(name)  # a missing teacher should fail before any work is done


def splits_of(recipe: Recipe, data: Sequence[Path], tokenizer: Tokenizer) -> tuple[CaptionSet, CaptionSet]:
    """Return the training and validation sets of a run, as `prepare` does; `tokenizer` is the run's vocabulary."""
    sources, val = _sources(data, recipe)
    train = join_encoded([encode_captions(source.train, tokenizer) for source in sources])
    return train.captions, _some(encode_captions(val, tokenizer), recipe).captions


def _splits(dataset: Dataset, recipe: Recipe) -> tuple[CaptionSet, CaptionSet]:
    """Return the training and validation splits.

    If the recipe has the default name of the validation split and the dataset has none, a share is held out.
    """
    wanted, usual = recipe.data, DataRecipe()
    train = _training_split(dataset, recipe)
    if wanted.val_split != usual.val_split or "val" in dataset:
        return train, _captioned(dataset.split(wanted.val_split))
    if len(train) < 2:
        raise TrainingError(f"{dataset.root}: one captioned image is too few to train and validate; add more")
    return train.split_off(wanted.val_fraction, recipe.trainer.seed)


def _captioned(captions: CaptionSet) -> CaptionSet:
    kept = [index for index, example in enumerate(captions) if example.captions]
    if not kept:
        raise TrainingError(f"{captions.name}, split {captions.split}: no image has a caption; nothing to learn from")
    return captions.subset(kept)


def _some(val: EncodedCaptions, recipe: Recipe) -> EncodedCaptions:
    """Return the part of the validation split that the recipe evaluates, sampled since splits may be sorted."""
    most = recipe.data.val_images
    count = len(val.tokens)
    if not 0 < most < count:
        return val
    return val.subset(sorted(np.random.default_rng(recipe.trainer.seed).permutation(count)[:most].tolist()))


def _vocabulary(train: CaptionSet, recipe: Recipe) -> Tokenizer:
    captions = [caption for example in train for caption in example.captions]
    data = recipe.data
    return Tokenizer.train(captions, kind=data.tokenizer, min_frequency=data.min_freq, vocab_size=data.vocab_size)


def _grown(
    model: CaptioningModel, tokenizer: Tokenizer, train: CaptionSet, recipe: Recipe, notes: list[str]
) -> Tokenizer:
    """Add new words of the training captions to the vocabulary, and to `model`; return the grown vocabulary."""
    if recipe.loss.objective == "self-critical":
        return tokenizer  # a word that the model was never trained on is never sampled, and so never rewarded
    captions = [caption for example in train for caption in example.captions]
    grown = tokenizer.extended(captions, recipe.data.min_freq)
    new = grown.tokens[len(tokenizer) :]
    if new:
        counts = tokenizer.count_words(captions)
        total = sum(counts.values()) + len(captions)  # plus one end token per caption
        encoded = [ids[: recipe.data.max_length + 1] for ids in tokenizer.encode_batch(captions[:_SAMPLED_CAPTIONS])]
        resize_token_embeddings(model, encoded, [counts[word] / total for word in new], recipe.trainer.seed)
        if model.concepts is not None:
            model.concepts.extend([min(1.0, counts[word] / len(captions)) for word in new])
        shown = ", ".join([*new[:_NAMED], *(["..."] if len(new) > _NAMED else [])])
        notes.append(f"words of the captions new to {recipe.trainer.init}, added to its own: {len(new)} ({shown})")
    return grown


def _encoder(recipe: Recipe) -> tuple[Encoder, EncoderConfig]:
    wanted = recipe.encoder
    refuse_torchvision(wanted.name)
    timm = is_timm(wanted.name)
    backbone = timm or "/" in wanted.name or bool(wanted.name and paths.is_folder(wanted.name, RecipeError))
    if wanted.train != "all" and not (wanted.pretrained if backbone else wanted.weights):
        source = "encoder.pretrained is false" if backbone else "encoder.weights is empty"
        raise RecipeError(f"{source}, so the encoder is random; set encoder.train to 'all', or give it weights")
    if backbone:
        _refuse_weights(wanted, f"{wanted.name} is a backbone that brings its own")
        load = load_timm_encoder if timm else load_huggingface_encoder
        return load(EncoderConfig(wanted.name), pretrained=wanted.pretrained)
    if wanted.weights and not wanted.weights.endswith(".safetensors"):
        return _encoder_of(wanted)
    if not wanted.name:
        raise RecipeError("encoder.name is empty, and encoder.weights is no captioning model that would tell; name it")
    config = EncoderConfig(wanted.name, batch_norm=not wanted.weights)
    encoder = build_encoder(config)
    if wanted.weights:
        if not isinstance(encoder, MobileNet):
            raise RecipeError(f"encoder.weights: {wanted.name} has no published weights to load; leave it empty")
        encoder.load_published(wanted.weights)
    return encoder, config


def _refuse_weights(wanted: EncoderRecipe, why: str) -> None:
    if wanted.weights not in ("", EncoderRecipe().weights):
        raise RecipeError(f"encoder.weights = {wanted.weights!r}: {why}; leave it out")


def _encoder_of(wanted: EncoderRecipe) -> tuple[Encoder, EncoderConfig]:
    """Load the encoder of a captioning model."""
    model = load_model(open_model(wanted.weights))
    if wanted.name not in ("", model.config.encoder.name):
        raise RecipeError(
            f"encoder.weights: the encoder of {wanted.weights} is {model.config.encoder.name}, not {wanted.name}; "
            "change encoder.name, or name other weights"
        )
    return model.encoder, model.config.encoder


def _model_config(recipe: Recipe, encoder: EncoderConfig, grid: tuple[int, int]) -> ModelConfig:
    wanted = recipe.decoder
    values = {**asdict(wanted), "rows": grid[0], "columns": grid[1]}
    if wanted.name == "transformer":
        values |= {name: values[name] or size for name, size in SIZES[wanted.size].items()}
    own = {field.name for field in fields(CONFIGS[wanted.name])}
    try:
        decoder = decoder_config({name: value for name, value in values.items() if name in own})
    except ValueError as error:
        raise RecipeError(f"decoder.{error}") from None
    return ModelConfig(encoder, decoder, memory=wanted.memory, feature_dropout=wanted.feature_dropout)


def _with_encoder(
    model: CaptioningModel, expected: Preprocessing, recipe: Recipe, notes: list[str]
) -> tuple[CaptioningModel, Preprocessing]:
    """Replace the encoder of the model to start from if the recipe names another; return model and preprocessing.

    A new encoder gets a new neck. The decoder keeps its weights: the language model is retained, and only the
    connection to the image features is learned from scratch.
    """
    own = model.config.encoder.name
    if not _names_another_encoder(recipe, model):
        return model, expected
    encoder, config = _encoder(recipe)
    model.replace_encoder(encoder, config)
    name, start = recipe.encoder.name, recipe.trainer.init
    notes.append(
        f"{start}: its encoder {own} is replaced by {name}; what joins that to the decoder starts from scratch"
    )
    return model, encoder.preprocessing()


def _names_another_encoder(recipe: Recipe, model: CaptioningModel) -> bool:
    return recipe.encoder.name not in ("", model.config.encoder.name)


def _with_concepts(model: CaptioningModel, tokenizer: Tokenizer, train: CaptionSet, recipe: Recipe) -> None:
    """Give the model the concept head that the recipe names, if it has none, and the weight of its evidence."""
    wanted = recipe.decoder
    if wanted.concepts and model.concepts is None:
        head = model.add_concepts(wanted.concepts, len(tokenizer))
        head.set_base_rates(_shares_of_captions(tokenizer, train))
    if wanted.concept_weight and model.concepts is None:
        raise RecipeError(f"decoder.concept_weight = {wanted.concept_weight:g}: needs decoder.concepts, a concept head")
    model.config = replace(model.config, concept_weight=wanted.concept_weight or model.config.concept_weight)


def _shares_of_captions(tokenizer: Tokenizer, captions: CaptionSet) -> list[float]:
    """Return, for each token of the vocabulary, the share of the captions that have it."""
    flat = tokenizer.encode_batch([caption for example in captions for caption in example.captions])
    counts = Counter(token for ids in flat for token in set(ids))
    return [counts[token] / len(flat) for token in range(len(tokenizer))]


def _check_kept(recipe: Recipe, model: CaptioningModel) -> None:
    """Raise RecipeError if the recipe contradicts the model to start from, whose decoder is given."""
    if not _names_another_encoder(recipe, model):
        _refuse_weights(recipe.encoder, f"{recipe.trainer.init} brings its encoder's weights")
    elif not model.config.memory:
        raise RecipeError(
            f"encoder.name = {recipe.encoder.name!r}: the decoder of {recipe.trainer.init} takes its own encoder's "
            "grid as it is (decoder.memory = 0); leave it out"
        )
    decoder = asdict(model.config.decoder)
    stored = {f"decoder.{name}": value for name, value in decoder.items()} | {"decoder.memory": model.config.memory}
    if model.concepts is not None:
        stored["decoder.concepts"] = model.config.concepts
    if decoder["name"] == "transformer":
        named = (name for name, size in SIZES.items() if size.items() <= decoder.items())
        stored["decoder.size"] = next(named, "another size")
    for name, leaf in recipe_fields():
        asked = recipe.value(name)
        if name in stored and name != "decoder.dropout" and asked not in (leaf.default, stored[name]):
            raise RecipeError(f"{name} = {asked!r}: {recipe.trainer.init} has {stored[name]!r}; leave it out")
    check_decoder_fields(recipe, decoder["name"], decoder.get("kind", ""))


def _preprocessing(expected: Preprocessing, recipe: Recipe, *, keep_fit: bool) -> Preprocessing:
    image = recipe.image
    return replace(
        expected,
        height=image.height or expected.height,
        width=image.width or expected.width,
        fit=expected.fit if keep_fit else image.fit,
    )
