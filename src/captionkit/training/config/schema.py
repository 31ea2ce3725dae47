"""The fields of a recipe: one frozen dataclass per table of the TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

Share = Annotated[float, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(1)]
Weight = Annotated[float, Gt(0), Le(100)]

#: decoders that a field can be restricted to; "hard" stands for show-attend-tell with hard attention
_RECURRENT = ("show-tell", "show-attend-tell")
_ATTENTIVE = ("show-attend-tell", "transformer")


def _field(default: Any, meaning: str, of: tuple[str, ...] = ()) -> Any:
    """Return a dataclass field with its help text; `of` names the decoders it applies to, if not all."""
    return field(default=default, metadata={"help": f"{meaning} ({', '.join(of)})" if of else meaning, "of": of})


@dataclass(frozen=True)
class DataRecipe:
    """Dataset splits, captions per image, and tokenization."""

    train_split: str = _field("train", "the split that is learnt")
    val_split: str = _field("val", "the split that is evaluated")
    holdout: Annotated[float, Gt(0), Lt(1)] = _field(
        0.05, "share of the training images held out where the dataset has no validation split"
    )
    val_pictures: Annotated[int, Ge(0)] = _field(
        0, "images of the validation split that are evaluated, drawn by run.seed; 0: all"
    )
    captions_per_image: Count = _field(
        5, "captions of an image taught at a time; of more, others in turn each time, all of them equally often"
    )
    max_length: Count = _field(40, "tokens of a caption that are taught; longer ones are cut")
    tokenizer: Literal["word", "bpe"] = _field("word", "what a token is: a word, or a byte-pair piece of one")
    min_frequency: Count = _field(
        5,
        "how often a token must occur in the training captions to enter the vocabulary, or that of the model to start "
        "from, which keeps all its own",
    )
    vocab_size: Annotated[int, Ge(300)] = _field(8000, "size of a byte-pair vocabulary")
    weights: tuple[Weight, ...] = _field(
        (),
        "how often an epoch shows the images of each DATA, in their order, with commas: 2 twice, 0.5 half of them in "
        "turn; empty: all once. The first DATA validates; the vocabulary is that of all, whatever their weights",
    )
    token_dropout: Share = _field(
        0.0, "share of the words fed to the decoder while training that are hidden as <unk>; those to predict stay"
    )


@dataclass(frozen=True)
class ImageRecipe:
    """Image size, how images are resized to it, and augmentation; a size of 0 keeps what the encoder expects."""

    height: Annotated[int, Ge(0)] = _field(0, "rows of the images, in pixels; 0 keeps what the encoder expects")
    width: Annotated[int, Ge(0)] = _field(0, "columns of the images, in pixels; 0 keeps what the encoder expects")
    fit: Literal["squash", "crop", "pad"] = _field("squash", "how an image is brought to that size")
    crop: Annotated[float, Gt(0), Le(1)] = _field(
        1.0, "smallest share of an image's area that a random crop keeps, before it is made to fit; 1 never crops"
    )
    colour: Share = _field(
        0.0,
        "largest random change of brightness, contrast and saturation while training, each by a factor from 1 - this "
        "to 1 + this; 0 is off, 0.2 is mild. Hue stays, because captions name colours",
    )
    flip: bool = _field(False, "mirror half of the images")
    flip_unless: tuple[str, ...] = _field(
        ("left", "right"), "words in an image's captions that forbid mirroring it, with commas; see flip_swap"
    )
    flip_swap: bool = _field(
        False,
        "mirror such images too, and swap the words of flip_unless in pairs (first with second, third with fourth, "
        "...) in their captions; for data in which these words are directions, as 'left' in 'a man left' is not",
    )


@dataclass(frozen=True)
class EncoderRecipe:
    """Encoder architecture, its weights, and which of its stages are trained."""

    name: str = _field(
        "",
        "efficientnet-lite2, mobilenet-edgetpu, mobilenet-v2, the Hub id or folder of a transformers vision backbone, "
        "timm:NAME or torchvision:NAME; empty: that of the model whose weights are taken, by --init or encoder.weights",
    )
    weights: str = _field(
        "bundled",
        "where our own encoders' weights come from: a captioning model ('bundled', a folder, a Hub id), a .safetensors "
        "file of published ones, or empty for random ones",
    )
    pretrained: bool = _field(True, "whether a transformers or timm backbone comes with its weights")
    train: Literal["frozen", "stages", "all"] = _field(
        "frozen", "whether the encoder is trained: not at all, from stage `first_stage` on, or whole"
    )
    first_stage: int = _field(-1, "the first stage that is trained; negative numbers count from the last")
    freeze_norms: bool = _field(
        False,
        "whether the encoder's batch norms keep the statistics that they have: for small batches, and for crops, which "
        "differ from the whole images that are captioned later",
    )
    thaw: Annotated[float, Ge(0)] = _field(
        0.0,
        "epochs until the last stage of a trained encoder thaws, and from each stage to the next earlier one; 0: all "
        "are trained from the start",
    )
    stage_decay: Annotated[float, Gt(0), Le(1)] = _field(
        1.0, "learning rate of a stage of the encoder as a share of the next later one's"
    )


@dataclass(frozen=True)
class DecoderRecipe:
    """Decoder architecture and sizes. Fields of other decoders must be left at their defaults."""

    name: Literal["show-tell", "show-attend-tell", "transformer"] = _field(
        "show-attend-tell", "the decoder: show-tell, show-attend-tell or transformer"
    )
    kind: Literal["soft", "hard"] = _field("soft", "whether attention is soft or hard", ("show-attend-tell",))
    embedding: Count = _field(512, "width of the word embedding", _RECURRENT)
    hidden: Count = _field(512, "width of the LSTM", _RECURRENT)
    attention: Count = _field(256, "width of the attention's hidden layer", ("show-attend-tell",))
    size: Literal["tiny", "small", "base"] = _field(
        "small", "width, layers and heads together: tiny 128/2/4, small 256/3/4, base 512/6/8", ("transformer",)
    )
    width: Annotated[int, Ge(0)] = _field(0, "width of the network; 0 is that of the size", ("transformer",))
    layers: Annotated[int, Ge(0)] = _field(0, "number of layers; 0 is that of the size", ("transformer",))
    heads: Annotated[int, Ge(0)] = _field(0, "heads of each attention; 0 is that of the size", ("transformer",))
    dropout: Share = _field(0.3, "share of units dropped while training")
    memory: Annotated[int, Ge(0)] = _field(
        512, "width of the grid that the decoder sees; 0 keeps the encoder's own, as in the papers"
    )
    feature_dropout: Share = _field(0.1, "share of the encoder's features dropped while training")


@dataclass(frozen=True)
class OptimizerRecipe:
    """Objective, optimizer, batch size, and learning rates of encoder and decoder with their schedule."""

    objective: Literal["cross-entropy", "self-critical"] = _field(
        "cross-entropy",
        "what is learnt: the captions that people wrote, or, from a model that knows them already (--init), to say "
        "captions of a high CIDEr-D",
    )
    name: Literal["adamw", "adam", "sgd", "adafactor", "lion", "muon"] = _field(
        "adamw", "the optimizer: adamw, adam, sgd (with Nesterov momentum), adafactor, lion or muon"
    )
    epochs: Count = _field(20, "passes over the training images")
    epoch_steps: Count = _field(
        1, "fewest steps of an epoch; one over fewer images goes over them as many times as that takes"
    )
    batch_size: Count = _field(32, "images a step, over all processes and accumulated parts together")
    accumulate: Count = _field(
        1, "parts into which a step is cut to save memory; the result is that of the whole batch"
    )
    lr_decoder: Positive = _field(
        1e-3, "peak learning rate of the decoder; each optimizer wants its own, lion's the lowest and sgd's the highest"
    )
    lr_encoder: Positive = _field(2e-5, "peak learning rate of the encoder")
    weight_decay: Annotated[float, Ge(0)] = _field(
        0.01, "weight decay (matrices only); in the gradient with adam and sgd, beside it with the others"
    )
    warmup: Annotated[int, Ge(0)] = _field(200, "steps over which the rates rise from zero; at most a fifth of the run")
    schedule: Literal["cosine", "linear", "constant"] = _field(
        "cosine", "how the rates go on after the warm-up: down a cosine, down a line, or constant"
    )
    floor: Annotated[float, Ge(0), Le(1)] = _field(0.01, "the rates' share left at the end of the cosine or line")
    clip: Positive = _field(1.0, "largest norm of the gradient")
    label_smoothing: Share = _field(0.1, "label smoothing of the cross-entropy")
    coverage: Annotated[float, Ge(0)] = _field(
        1.0, "weight of the doubly stochastic attention penalty (mean over cells), beside the cross-entropy", _ATTENTIVE
    )
    hard_reward: Annotated[float, Ge(0)] = _field(
        0.1, "weight of the reward that teaches where to look; 1 is the exact gradient", ("hard",)
    )
    hard_entropy: Annotated[float, Ge(0)] = _field(0.002, "weight of the attention's entropy", ("hard",))
    scheduled_sampling: Annotated[float, Ge(0), Le(1)] = _field(
        0.0,
        "share of the words fed to the decoder that are the model's own at the end of the run, rising evenly from 0; "
        "costs a second forward pass",
    )
    ema: Share = _field(0.999, "decay of the moving average of the weights that is evaluated and kept; 0 for none")


@dataclass(frozen=True)
class DistillationRecipe:
    """Distillation: teacher models whose word distributions are soft targets, in addition to the references."""

    teachers: tuple[str, ...] = _field(
        (),
        "models of the same vocabulary whose mean distribution of each word is taught beside the word, with commas; "
        "they see the images as they are",
    )
    weight: Annotated[float, Gt(0), Le(1)] = _field(0.5, "the teachers' share of what is taught")


@dataclass(frozen=True)
class SelfCriticalRecipe:
    """Self-critical training: sampling and reward, used if optimizer.objective is "self-critical"."""

    samples: Annotated[int, Ge(2)] = _field(5, "captions drawn of each image, in each epoch")
    baseline: Literal["others", "greedy"] = _field(
        "others", "what a reward is compared with: the mean of the image's other samples, or its likeliest caption's"
    )
    temperature: Annotated[float, Gt(0), Le(1)] = _field(
        0.5, "divides the log-probabilities of what is drawn; below 1, captions come closer to those of decoding"
    )
    bleu4: Annotated[float, Ge(0)] = _field(0.0, "weight of BLEU-4 in the reward, beside CIDEr-D")


@dataclass(frozen=True)
class RunRecipe:
    """Seed, precision, performance, evaluation, checkpoints and tracking of the run."""

    seed: Annotated[int, Ge(0)] = _field(0, "number that decides every random choice")
    init: str = _field("", "model to start from: a folder, a Hub id, or 'bundled'; empty starts from scratch")
    precision: Literal["no", "auto", "bf16", "fp16"] = _field(
        "no", "arithmetic of the forward pass; auto: bf16 where the device has it, else full precision"
    )
    workers: Annotated[int, Ge(-1)] = _field(
        -1, "threads that prepare images ahead; -1 is one a core, at most 16; 0 does it between the steps"
    )
    recompute: bool = _field(
        False,
        "compute the trained stages of the encoder and the layers of a transformer again in the backward pass instead "
        "of keeping what they made: less memory, more time, the same weights",
    )
    compile: bool = _field(
        False,
        "compile the network by torch.compile: minutes at the start, for long runs on a GPU; needs a C++ compiler",
    )
    eval_every: Positive = _field(1.0, "epochs between two evaluations")
    keep: Literal["cider", "loss"] = _field(
        "cider",
        "what the kept model is the best by: the CIDEr-D of its captions, or the validation loss, where a model that "
        "self-critical training made learns people's words again",
    )
    patience: Annotated[int, Ge(0)] = _field(
        5, "evaluations without a better model after which the run stops; 0 never does"
    )
    checkpoint_every: Annotated[float, Ge(0)] = _field(300.0, "seconds between two checkpoints")
    samples: Annotated[int, Ge(0)] = _field(8, "validation images captioned at each evaluation")
    half_weights: bool = _field(False, "whether the kept model's weights are stored in half precision")
    trackers: tuple[str, ...] = _field(
        ("tensorboard",), "trackers that log losses and scores: tensorboard, wandb, mlflow, ...; empty for none"
    )
