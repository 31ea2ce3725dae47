"""The fields of a recipe: one frozen dataclass per table of the TOML file.

A field's help is one line of `captionkit train --help` and of the documentation; docs/recipes.md says more of some.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from captionkit.models.decoder_config import SIZES, default_of, owners_of

Share = Annotated[float, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(1)]
Weight = Annotated[float, Gt(0), Le(100)]

#: the decoders whose attention training can regularize, and what stands for show-attend-tell with hard attention
_ATTENTIVE, _HARD = ("show-attend-tell", "transformer"), ("hard",)
#: the sizes of the transformer, for its help
_SIZES = ", ".join("/".join(map(str, size.values())) for size in SIZES.values())


def _field(default: Any, meaning: str, of: tuple[str, ...] = ()) -> Any:
    """Return a dataclass field with its help text; `of` names the decoders it applies to, if not all."""
    return field(default=default, metadata={"help": meaning, "of": of})


def _size(name: str, meaning: str, default: Any = None) -> Any:
    """Return the field for a size of decoders: its default is that of their configs, and it is for those that have it.

    `default` is another default.
    """
    return _field(default_of(name) if default is None else default, meaning, owners_of(name))


@dataclass(frozen=True)
class DataRecipe:
    """Dataset splits, captions per image, tokenization, and loading."""

    train_split: str = _field("train", "split to train on")
    val_split: str = _field("val", "split to validate on")
    val_fraction: Annotated[float, Gt(0), Lt(1)] = _field(
        0.05, "share of the training images held out if there is no val split"
    )
    val_images: Annotated[int, Ge(0)] = _field(0, "validation images to evaluate, drawn by trainer.seed; 0: all")
    captions_per_image: Count = _field(5, "captions of an image per epoch; of more, others in turn")
    max_length: Count = _field(40, "tokens of a caption; longer ones are cut")
    tokenizer: Literal["word", "bpe"] = _field("word", "tokens are words, or byte-pair pieces of words")
    min_freq: Count = _field(5, "occurrences in the training captions that a token of the vocabulary needs")
    vocab_size: Annotated[int, Ge(300)] = _field(8000, "size of a byte-pair vocabulary")
    weights: tuple[Weight, ...] = _field((), "times an epoch shows the images of each DATA: 2,0.5 (default: 1 each)")
    token_dropout: Share = _field(0.0, "share of the decoder's input words replaced by <unk>")
    num_workers: Annotated[int, Ge(-1)] = _field(-1, "threads that load images; -1: one a core, at most 16; 0: none")


@dataclass(frozen=True)
class ImageRecipe:
    """Image size, how images are resized to it, and augmentation."""

    height: Annotated[int, Ge(0)] = _field(0, "rows in pixels; 0: what the encoder expects")
    width: Annotated[int, Ge(0)] = _field(0, "columns in pixels; 0: what the encoder expects")
    fit: Literal["squash", "crop", "pad"] = _field("squash", "how an image is brought to that size")
    random_resized_crop_scale: Annotated[float, Gt(0), Le(1)] = _field(
        1.0, "smallest share of the area that a random crop keeps; 1: no crops"
    )
    color_jitter: Share = _field(0.0, "largest random change of brightness, contrast, saturation; 0: none")
    flip: bool = _field(False, "mirror half of the images")
    flip_unless: tuple[str, ...] = _field(("left", "right"), "words in an image's captions that forbid mirroring it")
    flip_swap: bool = _field(False, "mirror these images too, and swap the words of flip_unless in pairs")


@dataclass(frozen=True)
class EncoderRecipe:
    """Encoder architecture, its weights, and which of its stages are trained."""

    name: str = _field("", "encoder, Hub id, folder or timm:NAME; empty: that of the model")
    weights: str = _field("bundled", "weights of our own encoders: a captioning model, a .safetensors file, or none")
    pretrained: bool = _field(True, "load the weights of a transformers or timm backbone")
    train: Literal["frozen", "stages", "all"] = _field("frozen", "train none, the stages from first_stage on, or all")
    first_stage: int = _field(-1, "first stage that is trained; negative numbers count from the last")
    freeze_norms: bool = _field(False, "keep the statistics of batch norms: for small batches and for crops")
    unfreeze_epochs: Annotated[float, Ge(0)] = _field(
        0.0, "epochs until the last stage is trained, and then each earlier one; 0: all at once"
    )
    layer_decay: Annotated[float, Gt(0), Le(1)] = _field(
        1.0, "learning rate of a stage as a share of the next later one's"
    )


@dataclass(frozen=True)
class DecoderRecipe:
    """Decoder architecture and sizes. Fields of other decoders must be left at their defaults."""

    name: Literal["show-tell", "show-attend-tell", "transformer"] = _field("show-attend-tell", "decoder")
    kind: Literal["soft", "hard"] = _size("kind", "soft or hard attention")
    embedding: Count = _size("embedding", "width of the word embedding")
    hidden: Count = _size("hidden", "width of the LSTM")
    attention: Count = _size("attention", "width of the attention's hidden layer")
    size: Literal["tiny", "small", "base"] = _field("small", f"width/layers/heads {_SIZES}", ("transformer",))
    width: Annotated[int, Ge(0)] = _size("width", "width of the network; 0: by size", 0)
    layers: Annotated[int, Ge(0)] = _size("layers", "number of layers; 0: by size", 0)
    heads: Annotated[int, Ge(0)] = _size("heads", "heads of each attention; 0: by size", 0)
    dropout: Share = _field(default_of("dropout"), "dropout of the decoder")
    memory: Annotated[int, Ge(0)] = _field(512, "width of the grid that the decoder sees; 0: the encoder's own")
    feature_dropout: Share = _field(0.1, "dropout of the encoder's features")
    concepts: Annotated[int, Ge(0)] = _field(0, "width of a concept head, which predicts an image's words; 0: none")
    concept_weight: Annotated[float, Ge(0), Le(1)] = _field(
        0.0, "weight of its evidence in the logits; 0: that of --init, or none"
    )


@dataclass(frozen=True)
class LossRecipe:
    """What is minimized: objective, regularization, and the decoder's input words."""

    objective: Literal["cross-entropy", "self-critical"] = _field(
        "cross-entropy", "fit people's captions, or raise CIDEr-D (from --init)"
    )
    label_smoothing: Share = _field(0.1, "label smoothing of the cross-entropy")
    doubly_stochastic_weight: Annotated[float, Ge(0)] = _field(
        1.0, "weight of the doubly stochastic attention penalty", _ATTENTIVE
    )
    hard_reward: Annotated[float, Ge(0)] = _field(0.1, "weight of the reward of hard attention; 1: exact", _HARD)
    hard_entropy: Annotated[float, Ge(0)] = _field(0.002, "weight of the entropy of hard attention", _HARD)
    concept_weight: Annotated[float, Ge(0)] = _field(
        0.03, "weight of the concept head's cross-entropy (decoder.concepts)"
    )
    scheduled_sampling: Annotated[float, Ge(0), Le(1)] = _field(
        0.0, "share of input words that are the model's own at the end, rising from 0"
    )


@dataclass(frozen=True)
class OptimizerRecipe:
    """Optimizer, and the learning rates of encoder and decoder with their schedule."""

    name: Literal["adamw", "sgd", "adafactor", "lion", "muon"] = _field("adamw", "optimizer; sgd has Nesterov momentum")
    lr_decoder: Positive = _field(1e-3, "peak learning rate of the decoder; see `captionkit find-lr`")
    lr_encoder: Positive = _field(2e-5, "peak learning rate of the encoder")
    lr_concepts: Annotated[float, Ge(0)] = _field(0.0, "peak learning rate of the concept head; 0: the decoder's")
    weight_decay: Annotated[float, Ge(0)] = _field(0.01, "weight decay of matrices; coupled in sgd")
    warmup: Annotated[int, Ge(0)] = _field(200, "steps over which rates rise from 0; at most a fifth of the run")
    schedule: Literal["cosine", "linear", "constant"] = _field("cosine", "learning rates after the warm-up")
    min_lr_ratio: Annotated[float, Ge(0), Le(1)] = _field(0.01, "share of the rates left at the end of the schedule")


@dataclass(frozen=True)
class DistillationRecipe:
    """Distillation: teacher models whose word distributions are soft targets beside the captions."""

    teachers: tuple[str, ...] = _field((), "models with the same vocabulary whose mean distribution is the target")
    weight: Annotated[float, Gt(0), Le(1)] = _field(0.5, "the teachers' share of the loss")


@dataclass(frozen=True)
class SelfCriticalRecipe:
    """Self-critical training: sampling and reward, used if loss.objective is "self-critical"."""

    samples: Annotated[int, Ge(2)] = _field(5, "captions sampled of each image, in each epoch")
    baseline: Literal["others", "greedy"] = _field(
        "others", "baseline of the reward: mean of the other samples, or greedy caption"
    )
    temperature: Annotated[float, Gt(0), Le(1)] = _field(0.5, "divides the log-probabilities of what is sampled")
    bleu4: Annotated[float, Ge(0)] = _field(0.0, "weight of BLEU-4 in the reward, beside CIDEr-D")


@dataclass(frozen=True)
class TrainerRecipe:
    """Length and batches of the run, numerics, validation, checkpoints and logging."""

    seed: Annotated[int, Ge(0)] = _field(0, "seed of every random choice")
    init: str = _field("", "model to start from: a folder, a Hub id, or 'bundled'; empty: from scratch")
    epochs: Count = _field(20, "passes over the training images")
    min_steps_per_epoch: Count = _field(1, "fewest steps of an epoch; it repeats the images as often as needed")
    batch_size: Count = _field(32, "images per step, of all processes and micro-batches together")
    gradient_accumulation_steps: Count = _field(1, "micro-batches per step, to save memory; the gradient is the same")
    max_grad_norm: Positive = _field(1.0, "norm to which gradients are clipped")
    ema_decay: Share = _field(0.999, "decay of the moving average of the weights, which is kept; 0: none")
    precision: Literal["no", "auto", "bf16", "fp16"] = _field(
        "no", "mixed precision; auto is bf16 if the device has it"
    )
    gradient_checkpointing: bool = _field(False, "recompute activations in the backward pass, to save memory")
    compile: bool = _field(False, "compile the network by torch.compile; needs a C++ compiler")
    eval_every: Positive = _field(1.0, "epochs between evaluations")
    monitor: Literal["cider", "loss", "clipscore"] = _field(
        "cider", "validation score by which the best model is chosen"
    )
    clip: str = _field("", "CLIP model that scores validation captions, a folder or Hub id; clipscore needs one")
    patience: Annotated[int, Ge(0)] = _field(5, "evaluations without a better model until the run stops; 0: never")
    checkpoint_every: Annotated[float, Ge(0)] = _field(300.0, "seconds between checkpoints")
    save_dtype: Literal["float32", "float16"] = _field("float32", "type of the best model's weights on disk")
    log_samples: Annotated[int, Ge(0)] = _field(8, "validation images captioned in samples.html")
    report: bool = _field(True, "write curves.png and the report, and update them at each evaluation")
    report_to: tuple[str, ...] = _field(("tensorboard",), "trackers: tensorboard, wandb, mlflow, ...; empty: none")
