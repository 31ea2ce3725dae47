"""The words that a decoder is fed while it is taught: the true ones, but for some that are hidden or its own.

Word dropout (Bowman et al. 2016, arXiv 1511.06349, section 3.1) puts <unk> in the place of some words, so that the
decoder leans on the image and not on the words before. Scheduled sampling (Bengio et al. 2015, arXiv 1506.03099) puts
words of the model itself there, more and more of them, so that it learns to go on from what it will say. Here the model
says them in one pass over the true captions and learns in a second one (Mihaylova and Martins 2019, arXiv 1906.07651),
which suits every decoder. Its words are sampled from its distribution, as Bengio et al. define it: the likeliest ones
would be the same few again and again. The words to predict stay the true ones throughout.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from captionkit.models.captioning_model import CaptioningModel
from captionkit.training.data.collate import Batch
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.objectives.sampling import draw


class Feeding:
    """Puts other words into batches, as `data.token_dropout` and `optimizer.scheduled_sampling` ask.

    What happens to a word is decided by the three random numbers that its image drew for it (`Batch.chances`), so
    that parts and processes change nothing.
    """

    def __init__(
        self, model: CaptioningModel, teaching: CaptionDataset, grid: tuple[int, int], accelerator: Accelerator
    ) -> None:
        recipe, text = teaching.recipe, teaching.text
        self.hidden, self.final = recipe.data.token_dropout, recipe.optimizer.scheduled_sampling
        self._model, self._grid, self._accelerator, self._unknown = model, grid, accelerator, text.unk_id
        said = sorted(set(range(len(text))) - text.never_generated - {text.eos_id})
        #: the ids of the words that a caption may contain, [W]
        self._words = torch.tensor(said, device=accelerator.device)

    def share(self, step: int, steps: int) -> float:
        """The share of the model's own words in a step: from 0 in the first it rises to the recipe's in the last."""
        return self.final * step / max(steps - 1, 1)

    def fed(self, batch: Batch, share: float) -> Batch:
        """The batch with words of the model in the place of a `share` of its words, and then others hidden.

        The model is left in evaluation mode. A frozen encoder's features come with the batch, as they are known now.
        """
        if batch.chances is None:
            return batch
        hide, mix, numbers = batch.chances.unbind(1)  # [P,3] -> three times [P]
        captions = batch.captions
        first = captions.sizes[0]
        may = torch.arange(len(captions.tokens), device=hide.device) >= first  # never the begin tokens, [P]
        places = (may & (mix < share)).nonzero().squeeze(1)  # [P] -> [M,1] -> [M]
        tokens = captions.tokens
        if len(places):
            features, logits = self._predict(batch)
            asked = _before(captions.sizes, places)  # [M]
            tokens = tokens.index_copy(0, places, self._sampled(logits[asked], numbers[places]))  # [P]
            if self._model.encoder.frozen:
                batch = batch._replace(images=None, features=features)
        tokens = tokens.masked_fill(may & (hide < self.hidden), self._unknown)  # [P]
        return batch._replace(captions=captions._replace(tokens=tokens))

    @torch.no_grad()
    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The encoder's features [B,G,D] and what the model expects after each true word, logits [P,V]."""
        self._model.eval()  # nothing is dropped, no norm's statistics move, hard attention samples nothing
        # A context of its own: inside another, the second pass would find weights in 16 bits that have no gradient.
        with self._accelerator.autocast():
            features = self._model.features(batch.images) if batch.features is None else batch.features
            return features, self._model(None, features, batch.captions, self._grid).logits

    def _sampled(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """The word that each of the `numbers` [M] draws from its distribution `logits` [M,V]: ids [M]."""
        probabilities = logits.float().index_select(1, self._words).softmax(-1)  # [M,V] -> [M,W]
        return self._words[draw(probabilities.unsqueeze(1), numbers.unsqueeze(1)).squeeze(1)]  # [M,1] -> [M]


def _before(sizes: list[int], places: Tensor) -> Tensor:
    """Where in packed captions the word before each of the words at `places` [M] stands, none of them a first one: [M].

    `sizes` are those of `PackedCaptions`. A caption has the same place in every step, so it is as far back as the step
    before has captions.
    """
    back = torch.tensor(sizes[:-1], device=places.device)  # [L-1]
    back = back.repeat_interleave(torch.tensor(sizes[1:], device=places.device))  # of every word but first ones, [P-N]
    return places - back[places - sizes[0]]
