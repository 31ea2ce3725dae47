"""Looking at a model in training: validation loss in nats per word, and captions of a few pictures."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator

from captionkit.datasets import CaptionSet
from captionkit.errors import ImageError
from captionkit.images import Preprocessing, load_image, open_image
from captionkit.models.captioning import CaptioningModel
from captionkit.models.stepper import TorchStepper
from captionkit.search import Decoding, search
from captionkit.text import Text
from captionkit.training.batches import Teaching, whole
from captionkit.training.losses import losses
from captionkit.viz.page import Card, captions_page


@torch.inference_mode()
def validation_loss(model: CaptioningModel, teaching: Teaching, size: int, accelerator: Accelerator) -> float:
    """Cross-entropy of the true next word in nats, mean over all words, the end included; over all processes."""
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for batch in whole(teaching, size, accelerator.process_index, accelerator.num_processes):
        if not batch.captions.sizes:
            continue
        batch = batch.to(accelerator.device)
        with accelerator.autocast():
            decoded = model(batch.images, batch.features, batch.captions)
        nats = losses(decoded, batch.targets, 0.0).nats
        total += torch.stack([nats.double(), torch.tensor(len(batch.targets), device=nats.device)])
    nats, words = accelerator.reduce(total).tolist()
    return nats / max(words, 1)


def sample_captions(
    model: CaptioningModel, pictures: CaptionSet, text: Text, preprocessing: Preprocessing, decoding: Decoding
) -> list[Card]:
    """Cards of captioned pictures for samples.html."""
    cards = []
    stepper = TorchStepper(model)
    for example in pictures:
        try:
            pixels = load_image(example.image, preprocessing)
            photo = open_image(example.image, target=(224, 224))
        except ImageError as error:
            cards.append(Card(label=example.name, error=str(error)))
            continue
        found = search(
            stepper, np.stack([pixels]), decoding, bos_id=text.bos_id, eos_id=text.eos_id, banned=text.never_generated
        )[0]
        said = text.decode(found[0].tokens) if found else ""
        cards.append(Card(photo=photo, caption=said, references=example.captions, label=example.name))
    return cards


def samples_page(cards: list[Card], step: int, loss: float) -> str:
    """The page of samples.html."""
    return captions_page("Validation samples", cards, note=f"step {step}, validation loss {loss:.3f} nats per word")
