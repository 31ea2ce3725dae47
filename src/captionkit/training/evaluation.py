"""Looking at a model in training: validation loss in nats per word, and captions of a few pictures."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from captionkit.datasets import CaptionSet
from captionkit.errors import ImageError, TrainingError
from captionkit.images import Preprocessing, load_image, open_image
from captionkit.models.captioning import CaptioningModel
from captionkit.models.stepper import TorchStepper
from captionkit.search import search
from captionkit.text import Text
from captionkit.training.batches import whole
from captionkit.training.keep import DECODING
from captionkit.training.losses import losses
from captionkit.training.teaching import Teaching
from captionkit.viz.page import Card, captions_page


@torch.inference_mode()
def validation_loss(model: CaptioningModel, teaching: Teaching, accelerator: Accelerator) -> tuple[float, set[str]]:
    """Cross-entropy of the true next word in nats, mean over all words, the end included; over all processes.

    Also says which pictures could not be read, and why. Raises TrainingError if that is all of them.
    """
    nats, words, broken = 0.0, 0, set()
    recipe, rank, processes = teaching.recipe, accelerator.process_index, accelerator.num_processes
    for batch in whole(teaching, recipe.optimizer.batch_size, rank, processes, recipe.run.workers):
        broken.update(batch.broken)
        if not batch.captions.sizes:
            continue
        batch = batch.to(accelerator.device)
        with accelerator.autocast():
            decoded = model(batch.images, batch.features, batch.captions)
        nats += losses(decoded, batch.targets, 0.0).nats.item()
        words += len(batch.targets)
    parts = gather_object([(nats, words, broken)])
    nats, words, broken = sum(p[0] for p in parts), sum(p[1] for p in parts), set().union(*(p[2] for p in parts))
    if not words:
        raise TrainingError(f"none of the validation pictures can be read ({min(broken)}); mend or replace them")
    return nats / words, broken


def sample_captions(
    model: CaptioningModel, pictures: CaptionSet, text: Text, preprocessing: Preprocessing
) -> list[Card]:
    """Cards of captioned pictures for samples.html."""
    cards = []
    stepper = TorchStepper(model)
    ids = {"bos_id": text.bos_id, "eos_id": text.eos_id, "banned": text.never_generated}
    for example in pictures:
        try:
            pixels = load_image(example.image, preprocessing)
            photo = open_image(example.image, target=(224, 224))
        except ImageError as error:
            cards.append(Card(label=example.name, error=str(error)))
            continue
        found = search(stepper, np.stack([pixels]), DECODING, **ids)[0]
        said = text.decode(found[0].tokens) if found else ""
        cards.append(Card(photo=photo, caption=said, references=example.captions, label=example.name))
    return cards


def samples_page(cards: list[Card], step: int, loss: float) -> str:
    """The page of samples.html."""
    return captions_page("Validation samples", cards, note=f"step {step}, validation loss {loss:.3f} nats per word")
