"""Words a second in training, from the features of a frozen encoder: captionkit against a textbook loop.

    python bench/training.py [--data DATA] [--pictures N] [--batch N] [--rounds N] [--threads N] [--save FILE]

Without --data, features are random and captions are made of random words, as long as Flickr8k's are and with as large a
vocabulary. The contenders take turns, round by round; in a round each makes a whole optimizer step, from gathering the
batch to the changed weights, with the same pictures and the same captions.

- textbook: Show, Attend and Tell as tutorials and research code write it (below). Captions padded and sorted, each with
  a copy of its picture's features; step by step, the attention projects the features, an LSTM cell moves on, and the
  output layer fills a table of scores, which is packed for the loss. It attends over the encoder's own width, with
  Adam, in 32 bits.
- projected once: the same, but what the attention makes of the features alone is computed before the loop.
- output once: further, the output layer runs after the loop, over the words that there are.
- wide: captionkit's show-attend-tell over the encoder's own width, as the textbook's. It computes what depends on the
  picture alone once a picture and not once a caption, and what depends on the word alone for all words together.
- 32 bits: captionkit's show-attend-tell with the sizes of the recipe flickr8k: the features are brought to a narrower
  memory once a picture.
- captionkit: the same in bf16, as the recipe has it.
- show-tell, transformer: captionkit's other decoders, with the sizes and precision of their flickr8k recipes.

captionkit's own steps also do what the textbook leaves out: the deep output layer of the paper, label smoothing, the
norm of the whole gradient, and a moving average of the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from captionkit.data.images import Preprocessing
from captionkit.data.layouts import CaptionSet, Example, open_dataset
from captionkit.data.tokenizer import Tokenizer
from captionkit.inference.model_folder import open_model
from captionkit.models.captioning_model import CaptioningModel, ModelConfig
from captionkit.models.decoder_config import SIZES, ShowAttendTellConfig, ShowTellConfig, TransformerConfig
from captionkit.models.encoder import EncoderConfig
from captionkit.models.serialization import load_model
from captionkit.training.config.recipe import Recipe, load_recipe
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.feature_cache import cached_features
from captionkit.training.data.loader import batches
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.engine.distributed import make_accelerator
from captionkit.training.train_step import TrainStep
from captionkit.utils.progress import progress_bar
from tables import Report, add_save, table, tell

CELLS, WIDTH = 49, 1280  # of MobileNet-EdgeTPU, for images of 224 x 224
EMBEDDING, HIDDEN, ATTENTION, MEMORY = 384, 512, 256, 512  # of the recipe flickr8k

#: makes the step of a number; answers its mean of nats a word
Step = Callable[[int], float]


class Attention(nn.Module):
    """Soft attention as tutorials write it: `project` is called by `forward` unless its result is given."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, ATTENTION)
        self.query = nn.Linear(HIDDEN, ATTENTION)
        self.score = nn.Linear(ATTENTION, 1)

    def forward(self, features: Tensor, h: Tensor, projected: Tensor | None) -> tuple[Tensor, Tensor]:
        """`features` [n,G,D], `h` [n,H], `projected` [n,G,A] -> context [n,D], attention [n,G]."""
        keys = self.project(features) if projected is None else projected
        scores = self.score(torch.relu(keys + self.query(h).unsqueeze(1))).squeeze(2)  # [n,G,A] -> [n,G]
        weights = scores.softmax(1)
        return (features * weights.unsqueeze(2)).sum(1), weights  # [n,G,D] -> [n,D]


class Textbook(nn.Module):
    """The decoder of tutorials; the two switches are the savings named at the top."""

    def __init__(self, vocabulary: int, *, projected_once: bool, output_once: bool) -> None:
        super().__init__()
        self.projected_once, self.output_once = projected_once, output_once
        self.attention = Attention()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.cell = nn.LSTMCell(EMBEDDING + WIDTH, HIDDEN)
        self.init_h, self.init_c = nn.Linear(WIDTH, HIDDEN), nn.Linear(WIDTH, HIDDEN)
        self.gate = nn.Linear(HIDDEN, WIDTH)
        self.dropout = nn.Dropout(0.5)
        self.output = nn.Linear(HIDDEN, vocabulary)

    def forward(self, features: Tensor, words: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """`features` [N,G,D], `words` [N,L+1], longest first, of `lengths` to predict -> scores [P,V], maps [N,L,G]."""
        embedded = self.embedding(words)  # [N,L+1,E]
        mean = features.mean(1)  # [N,G,D] -> [N,D]
        h, c = self.init_h(mean), self.init_c(mean)  # each [N,H]
        projected = self.attention.project(features) if self.projected_once else None  # [N,G,A]
        size = HIDDEN if self.output_once else self.output.out_features
        table = features.new_zeros(len(words), lengths[0], size)
        maps = features.new_zeros(len(words), lengths[0], features.shape[1])
        for step in range(lengths[0]):
            n = sum(length > step for length in lengths)
            known = None if projected is None else projected[:n]
            context, weights = self.attention(features[:n], h[:n], known)
            context = self.gate(h[:n]).sigmoid() * context
            h, c = self.cell(torch.cat([embedded[:n, step], context], 1), (h[:n], c[:n]))
            table[:n, step] = h if self.output_once else self.output(self.dropout(h))
            maps[:n, step] = weights
        packed = pack_padded_sequence(table, lengths, batch_first=True).data  # [N,L,...] -> [P,...]
        return self.output(self.dropout(packed)) if self.output_once else packed, maps


class RunData(NamedTuple):
    """What is learnt: captioned images, their vocabulary and their features [N,views,G,D]."""

    captions: CaptionSet
    tokenizer: Tokenizer
    features: np.ndarray


def made_up(pictures: int) -> RunData:
    """Random features, and five captions each of random words, as long and as various as Flickr8k's."""
    generator = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(2500)])
    frequent = 1 / np.arange(1, len(words) + 1)
    lengths = generator.gamma(9.1, 1.19, (pictures, 5)).round().clip(2).astype(int)  # and an end: 11.8 on average
    said = [
        tuple(" ".join(generator.choice(words, length, p=frequent / frequent.sum())) for length in some)
        for some in lengths
    ]
    captions = tuple(Example(number, b"", some) for number, some in enumerate(said))
    # Fewer images than a dataset has, so their words alone would be a smaller vocabulary.
    text = Tokenizer.train([*(caption for some in said for caption in some), " ".join(words)], min_frequency=1)
    features = generator.standard_normal((pictures, 1, CELLS, WIDTH), np.float32).clip(0).astype(np.float16)
    return RunData(CaptionSet("made up", "train", captions), text, features)


def real(data: str, pictures: int) -> RunData:
    """The first captioned images of a dataset's training split, as the bundled model's encoder sees them."""
    whole = open_dataset(data).split("train")
    whole = whole.subset([index for index, example in enumerate(whole) if example.captions])
    text = Tokenizer.train([caption for example in whole for caption in example.captions], min_frequency=5)
    folder, captions = open_model("bundled"), whole[:pictures]
    encoder = load_model(folder).encoder
    features, broken = cached_features(
        encoder, captions, folder.preprocessing, flips=False, precision="no", shown=progress_bar
    )
    if broken:
        raise SystemExit(next(iter(broken.values())))
    return RunData(captions, text, features)


def recipe_of(options: argparse.Namespace, name: str, precision: str) -> Recipe:
    """The shipped recipe, with the bench's batches."""
    recipe = load_recipe(name)
    trainer = replace(recipe.trainer, batch_size=options.batch, epochs=1000, precision=precision)
    return replace(recipe, trainer=trainer, image=replace(recipe.image, flip=False))


def captionkits(material: RunData, recipe: Recipe, config: ModelConfig) -> Step:
    """captionkit's own step."""
    torch.manual_seed(0)
    model = CaptioningModel(config, len(material.tokenizer))
    model.encoder.train_from(None)
    teaching = CaptionDataset(
        material.captions, material.tokenizer, recipe, Preprocessing(), augment=True, features=material.features
    )
    plan = EpochSampler(len(teaching), recipe)
    learner = TrainStep(model, teaching, plan, recipe, make_accelerator(recipe.trainer.precision, model))

    def step(number: int) -> float:
        return learner.step(number, batches(teaching, plan, number, 0)).row()["loss"]

    return step


def textbooks(material: RunData, recipe: Recipe, **savings: bool) -> Step:
    """The step of a tutorial, on the images and captions of captionkit's."""
    torch.manual_seed(0)
    model = Textbook(len(material.tokenizer), **savings).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-4)
    criterion = nn.CrossEntropyLoss()
    teaching = CaptionDataset(material.captions, material.tokenizer, recipe, Preprocessing(), augment=True)
    plan = EpochSampler(len(teaching), recipe)

    def step(number: int) -> float:
        shown = zip(*plan.images_of(number), strict=True)
        rows = [(ids, index) for turn, index in shown for ids in teaching.plan_item(turn, index).captions]
        rows.sort(key=lambda row: -len(row[0]))
        words = nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids, _ in rows], batch_first=True)  # [N,L+1]
        lengths = [len(ids) - 1 for ids, _ in rows]
        features = torch.from_numpy(np.stack([material.features[index, 0] for _, index in rows])).float()  # [N,G,D]
        scores, maps = model(features, words, lengths)
        targets = pack_padded_sequence(words[:, 1:], lengths, batch_first=True).data  # [N,L] -> [P]
        nats = criterion(scores, targets)
        loss = nats + ((1 - maps.sum(1)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            parameter.grad.clamp_(-5, 5)
        optimizer.step()
        return nats.item()

    return step


def contenders(material: RunData, options: argparse.Namespace) -> dict[str, Step]:
    """All of them, by name."""
    full, half = (recipe_of(options, "flickr8k", precision) for precision in ("no", "bf16"))
    sizes = {"embedding": EMBEDDING, "hidden": HIDDEN, "attention": ATTENTION, "dropout": full.decoder.dropout}

    def config(recipe: Recipe, decoder: object, memory: int = MEMORY) -> ModelConfig:
        return ModelConfig(EncoderConfig(), decoder, memory, recipe.decoder.feature_dropout)

    shown, attended = (recipe_of(options, f"flickr8k-{name}", "bf16") for name in ("show-tell", "transformer"))
    attend_tell = ShowAttendTellConfig(**sizes)
    show_tell = ShowTellConfig(embedding=EMBEDDING, hidden=HIDDEN, dropout=shown.decoder.dropout)
    transformer = TransformerConfig(**SIZES[attended.decoder.size], rows=7, columns=7, dropout=attended.decoder.dropout)
    return {
        "textbook": textbooks(material, full, projected_once=False, output_once=False),
        "projected once": textbooks(material, full, projected_once=True, output_once=False),
        "output once": textbooks(material, full, projected_once=True, output_once=True),
        # Accelerate knows one precision a program, the latest; those without one, made first, keep to theirs.
        "wide": captionkits(material, full, config(full, attend_tell, 0)),
        "32 bits": captionkits(material, full, config(full, attend_tell)),
        "captionkit": captionkits(material, half, config(half, attend_tell)),
        "show-tell": captionkits(material, shown, config(shown, show_tell)),
        "transformer": captionkits(material, attended, config(attended, transformer)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a captioned dataset (default: a made-up one)")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    add_save(parser, "training")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    material = real(options.data, options.pictures) if options.data else made_up(options.pictures)
    recipe = recipe_of(options, "flickr8k", "no")
    teaching = CaptionDataset(material.captions, material.tokenizer, recipe, Preprocessing(), augment=True)
    plan, steps = EpochSampler(len(teaching), recipe), contenders(material, options)
    # The processor's own seconds, of all threads, tell the ratio where others share the machine.
    clocks = (time.perf_counter, time.process_time)
    speeds: dict[str, list[tuple[float, ...]]] = {name: [] for name in steps}
    nats = {}
    for number in range(options.rounds + 1):
        words, _ = teaching.totals(*plan.images_of(number))
        for name, step in steps.items():
            starts = [clock() for clock in clocks]
            nats[name] = step(number)
            if number:  # the first is for warming up
                speeds[name].append(
                    tuple(words / (clock() - start) for clock, start in zip(clocks, starts, strict=True))
                )
    tell(report(options, len(material.tokenizer), speeds, nats), options.save)


def report(
    options: argparse.Namespace, words: int, speeds: dict[str, list[tuple[float, ...]]], nats: dict[str, float]
) -> Report:
    """Everything that was measured."""
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    told = (
        f"`python bench/training.py --rounds {options.rounds}`; {options.batch} images a step, {words} words known, "
        f"{threads}; median (most) of the rounds, ratios to the textbook's within a round."
    )
    rows = []
    for name, values in speeds.items():
        wall = [value for value, _ in values]
        pairs = list(zip(values, speeds["textbook"], strict=True))
        ratios = [statistics.median(ours[clock] / theirs[clock] for ours, theirs in pairs) for clock in range(2)]
        rate = f"{statistics.median(wall):,.0f} ({max(wall):,.0f})"
        rows.append([name, rate, *(f"{ratio:.2f}" for ratio in ratios), f"{nats[name]:.2f}"])
    head = ["contender", "words a second", "times the textbook's", "the same per second of processor time"]
    return [told, table([*head, "nats a word, last step"], rows)]


if __name__ == "__main__":
    main()
