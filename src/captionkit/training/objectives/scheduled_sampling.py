"""Input words of the decoder during training: the references, with some words dropped or replaced by predictions.

Word dropout (Bowman et al. 2016, arXiv 1511.06349, section 3.1) replaces some input words by <unk>, so that the decoder
relies on the image rather than on the preceding words. Scheduled sampling (Bengio et al. 2015, arXiv 1506.03099)
replaces a growing share of them by the model's own predictions, so that it learns to continue from its own output. Here
the predictions come from one pass over the references, and training uses a second pass (Mihaylova and Martins 2019,
arXiv 1906.07651), which works for every decoder. They are sampled from the model's distribution, as in Bengio et al.:
the most probable words would be the same few again and again. The targets are always the reference words.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from captionkit.models.captioning_model import CaptioningModel
from captionkit.training.data.collate import Batch
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.objectives.sampling import draw


class InputCorruption:
    """Replaces input words of batches according to `data.token_dropout` and `loss.scheduled_sampling`.

    Three random numbers per word, drawn with its image (`Batch.uniforms`), decide what happens to it, so the result
    does not depend on gradient accumulation or the number of processes.
    """

    def __init__(
        self, model: CaptioningModel, dataset: CaptionDataset, grid: tuple[int, int], accelerator: Accelerator
    ) -> None:
        recipe, tokenizer = dataset.recipe, dataset.tokenizer
        self.hidden, self.final = recipe.data.token_dropout, recipe.loss.scheduled_sampling
        self._model, self._grid, self._accelerator, self._unknown = model, grid, accelerator, tokenizer.unk_id
        said = sorted(set(range(len(tokenizer))) - tokenizer.never_generated - {tokenizer.eos_id})
        #: the ids of the words that a caption may contain, [W]
        self._words = torch.tensor(said, device=accelerator.device)

    def share(self, step: int, steps: int) -> float:
        """Return the share of predicted words at `step`; rises linearly from 0 to the recipe's value at the last."""
        return self.final * step / max(steps - 1, 1)

    def corrupt(self, batch: Batch, share: float) -> Batch:
        """Replace a `share` of the input words by predictions, then drop words; return the changed batch.

        The model is left in evaluation mode. With a frozen encoder the returned batch holds its features in place of
        the images, so they are not computed twice.
        """
        if batch.uniforms is None:
            return batch
        hide, mix, numbers = batch.uniforms.unbind(1)  # [P,3] -> three times [P]
        captions = batch.captions
        first = captions.sizes[0]
        may = torch.arange(len(captions.tokens), device=hide.device) >= first  # all but the begin tokens, [P]
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
        """Return the encoder's features [B,G,D] and the logits [P,V] for the word after each reference word."""
        self._model.eval()  # no dropout, no update of norm statistics, no sampling in hard attention
        # A separate autocast context: in a shared one, the second pass would reuse 16-bit weights cached without grad.
        with self._accelerator.autocast():
            features = batch.features
            if features is None:
                assert batch.images is not None  # a batch has one of both
                features = self._model.features(batch.images)
            return features, self._model(None, features, batch.captions, self._grid).logits

    def _sampled(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """Draw a word from each distribution `logits` [M,V] with the random `numbers` [M]; return ids [M]."""
        probabilities = logits.float().index_select(1, self._words).softmax(-1)  # [M,V] -> [M,W]
        return self._words[draw(probabilities.unsqueeze(1), numbers.unsqueeze(1)).squeeze(1)]  # [M,1] -> [M]


def _before(sizes: list[int], places: Tensor) -> Tensor:
    """Return the packed positions [M] of the words that precede those at `places` [M], none of which is a first word.

    `sizes` are those of `PackedCaptions`. A caption has the same offset in every step, so the preceding word is as many
    positions back as the previous step has captions.
    """
    back = torch.tensor(sizes[:-1], device=places.device)  # [L-1]
    back = back.repeat_interleave(torch.tensor(sizes[1:], device=places.device))  # for words after the first, [P-N]
    return places - back[places - sizes[0]]
