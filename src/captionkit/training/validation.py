"""Validation of a model in training: loss in nats per word, generated captions of the validation split, scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from captionkit.data.images import open_image
from captionkit.data.layouts import CaptionSet
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import ImageError, TrainingError
from captionkit.inference.captioner import caption_words
from captionkit.inference.search import Begun, Hypothesis, search
from captionkit.inference.word_confidence import WordConfidence, fit
from captionkit.metrics.bleu import Bleu
from captionkit.metrics.cider import CiderD
from captionkit.metrics.diversity import Diversity
from captionkit.metrics.document_frequencies import DocumentFrequencies
from captionkit.metrics.tokens import TOKENIZERS, tokenizer_of
from captionkit.models.captioning_model import CaptioningModel
from captionkit.models.torch_stepper import TorchStepper
from captionkit.training.clip_monitor import ClipMonitor
from captionkit.training.config.decoding import DECODING
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.loader import eval_batches
from captionkit.training.objectives.losses import losses
from captionkit.utils.grouping import map_groups
from captionkit.viz.page import Card, captions_page

#: a word that occurs at least so often in the references, and ends one in at most this share, never ends a caption
_OFTEN, _ENDS = 20, 0.01


class Validator:
    """Scores captions against the references of a split, by index in the split."""

    def __init__(self, captions: CaptionSet) -> None:
        references = [example.captions for example in captions]
        self._tokenize = TOKENIZERS[tokenizer_of(references)]
        self._references = map_groups(self._tokenize, references)
        written = [*chain.from_iterable(self._references)]
        self._frequencies = DocumentFrequencies.of(self._references)
        self._used = [{word for reference in some for word in reference} for some in self._references]
        self._inside = _never_last(written)
        #: mean number of words of the references
        self.words = sum(map(len, written)) / len(written)

    def used(self, place: int, word: str) -> bool:
        """Return whether `word` occurs in the references of the image at `place`."""
        tokens = self._tokenize([word])[0]
        return bool(tokens) and all(token in self._used[place] for token in tokens)

    def scores(self, said: Mapping[int, str]) -> dict[str, float]:
        """Return CIDEr-D, BLEU-4 and indicators of degenerate captions, under the names of metrics.jsonl.

        cider_error: the standard error of CIDEr-D, which is a mean over images.
        distinct: share of distinct captions. words: mean number of words. repeats: share of captions that contain a
        bigram twice. breaks: share of captions that end with a word that practically never ends a reference ("a dog in
        a"), or are empty.
        """
        places = sorted(said)
        candidates = self._tokenize(said[place] for place in places)
        references = [self._references[place] for place in places]
        cider, bleu, diversity = CiderD(self._frequencies), Bleu(), Diversity()
        for metric in (cider, bleu, diversity):
            metric.update(candidates, references)
        variety, consensus = diversity.compute(), cider.compute().per_image[:, 0]  # [N,1] -> [N]
        return {
            "cider": float(consensus.mean()),
            "cider_error": float(consensus.std() / math.sqrt(len(places))),
            "bleu4": bleu.compute().values["BLEU-4"],
            "distinct": variety.distinct,
            "words": variety.words,
            "repeats": _share(len(set(pairs := list(pairwise(words)))) < len(pairs) for words in candidates),
            "breaks": _share(not words or words[-1] in self._inside for words in candidates),
        }


def _never_last(references: Sequence[Sequence[str]]) -> set[str]:
    said = Counter(word for words in references for word in words)
    last = Counter(words[-1] for words in references if words)
    return {word for word, times in said.items() if times >= _OFTEN and last[word] <= _ENDS * times}


def _share(true: Iterable[bool]) -> float:
    found = list(true)
    return sum(found) / len(found) if found else 0.0


@dataclass(frozen=True)
class Validation:
    """Results of a model on the validation split."""

    #: cross-entropy of the reference words in nats, mean over all words including the end tokens
    loss: float
    #: `Validator.scores` of the generated captions, and "clipscore" if a CLIP model scored them
    scores: dict[str, float]
    #: the generated captions, by index in the split
    said: dict[int, str]
    #: maps the model's probability of a generated word to the probability that it occurs in the references
    calibration: WordConfidence
    #: images that could not be read, with the reason
    broken: set[str]


@torch.inference_mode()
def validate(
    model: CaptioningModel,
    dataset: CaptionDataset,
    tokenizer: Tokenizer,
    validator: Validator,
    accelerator: Accelerator,
    clip: ClipMonitor | None = None,
) -> Validation:
    """Compute the teacher-forced loss and the scores of generated captions, over all processes.

    With `clip`, their mean CLIPScore is among the scores, under "clipscore". Raises TrainingError if no image can be
    read.
    """
    nats, words, broken, said, chances = 0.0, 0, set(), {}, []
    recipe, rank, processes = dataset.recipe, accelerator.process_index, accelerator.num_processes
    grid = model.encoder.grid(dataset.preprocessing.height, dataset.preprocessing.width)
    size = -(
        -recipe.trainer.batch_size // recipe.trainer.gradient_accumulation_steps
    )  # a size that fits in training fits here
    pin = accelerator.device.type == "cuda"
    for batch in eval_batches(dataset, size, rank, processes, recipe.data.num_workers, pin=pin):
        broken.update(batch.broken)
        if not batch.captions.sizes:
            continue
        batch = batch.to(accelerator.device)
        with accelerator.autocast():
            memory = model.encode_or_project(batch.images, batch.features, grid)
            decoded = model.decode(memory, batch.captions)
        nats += losses(decoded, batch.targets, 0.0).nats.item()
        words += len(batch.targets)
        for place, best in zip(batch.indices, _captions(model, memory.float(), tokenizer), strict=True):
            said[place] = tokenizer.decode(best.tokens.tolist()) if best else ""
            found = caption_words(tokenizer, best) if best else ()
            chances += [(math.exp(log_prob), validator.used(place, word)) for word, _, log_prob in found]
    seen = clip.scores(said) if clip else {}
    parts = gather_object([(nats, words, broken, said, sorted(chances), seen)])
    nats, words = sum(part[0] for part in parts), sum(part[1] for part in parts)
    broken, said = set().union(*(part[2] for part in parts)), {k: v for part in parts for k, v in part[3].items()}
    chances = sorted(chance for part in parts for chance in part[4])
    seen = {place: score for part in parts for place, score in part[5].items()}
    if not words:
        raise TrainingError(f"none of the validation images can be read ({min(broken)}); fix or replace them")
    calibration = fit([p for p, _ in chances], [used for _, used in chances])
    scores = validator.scores(said)
    if seen:  # summed exactly, so that it is the same whichever process captioned an image
        scores["clipscore"] = math.fsum(seen.values()) / len(seen)
    return Validation(nats / words, scores, said, calibration, broken)


def _captions(model: CaptioningModel, memory: Tensor, tokenizer: Tokenizer) -> list[Hypothesis | None]:
    """Generate captions of images, `memory` [B,G,D], with the decoding parameters of the saved model."""
    found = search(TorchStepper(model), Begun(model.begin(memory), memory), DECODING, tokenizer.special)
    return [captions[0] if captions else None for captions in found]


def sample_cards(images: CaptionSet, said: Mapping[int, str]) -> list[Card]:
    """Return the cards of validation images for samples.html; `said` has captions by index in the split."""
    cards = []
    for place, example in enumerate(images):
        try:
            photo = open_image(example.image, target=(224, 224))
        except ImageError as error:
            cards.append(Card(label=example.name, error=str(error)))
            continue
        caption = said.get(place, "")
        cards.append(Card(photo=photo, caption=caption, references=example.captions, label=example.name))
    return cards


def samples_page(cards: list[Card], step: int, validation: Validation) -> str:
    """Return the content of samples.html."""
    note = f"step {step}, CIDEr-D {validation.scores['cider']:.3f}, loss {validation.loss:.3f} nats per word"
    return captions_page("Validation samples", cards, note=note)
