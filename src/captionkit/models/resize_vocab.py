"""A larger vocabulary for a model that has learnt: what it knows stays exactly as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captionkit.models.captioning_model import DECODERS, CaptioningModel
from captionkit.models.decoder import PackedCaptions

#: of new rows around the mean of the old: their spread as a share of the old ones'
_SPREAD = 0.1


@torch.no_grad()
def grow(model: CaptioningModel, captions: Sequence[Sequence[int]], shares: Sequence[float], seed: int) -> None:
    """Add words to the decoder of `model`, in place: `shares` are how common each is among all words told, 0 to 1.

    The rows of the old words stay to the bit. A new word's embedding and output row are the mean of the old ones, with
    noise by `seed` to tell the new ones apart (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language
    Models"); its bias makes it about as likely as it is common, as seen on some `captions` (old token ids, <bos> first)
    told of a blank image.
    """
    old = model.decoder
    typical = _typical(model, captions)
    mine = old.state_dict()
    words = old.embedding.num_embeddings
    width = model.config.memory or model.encoder.dim
    grown = DECODERS[model.config.decoder.name].build(model.config.decoder, width, words + len(shares))
    grown.to(old.embedding.weight.dtype)
    generator = torch.Generator().manual_seed(seed)
    rarity = torch.tensor(shares, dtype=torch.float64).log() - typical  # [N]
    wanted = grown.state_dict()
    for name, table in mine.items():
        if table.shape != wanted[name].shape:  # a row for each word, and nothing else has another shape
            new = _rows(table, len(shares), generator) if table.ndim > 1 else table.mean() + rarity.to(table)
            wanted[name] = torch.cat([table, new])  # [V,...] and [N,...] -> [V+N,...]
        else:
            wanted[name] = table
    grown.load_state_dict(wanted)
    model.decoder = grown.train(old.training)


def _rows(table: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` new rows like those of `table` [V,W] -> [count,W]."""
    noise = torch.randn(count, table.shape[1], generator=generator).to(table)
    return table.mean(0) + _SPREAD * table.std() * noise


def _typical(model: CaptioningModel, captions: Sequence[Sequence[int]]) -> float:
    """The mean log-probability of a word of the vocabulary, over all words and all places of `captions`.

    It is what a row that is the mean of all would have, since logits are linear in the rows.
    """
    was = model.training
    model.eval()
    weight = next(model.decoder.parameters())
    blank = weight.new_zeros(1, 1, model.encoder.dim)  # [1,1,D']: a grid of one cell
    memory = model.remember(blank, (1, 1))
    found = []
    for caption in captions:
        told = PackedCaptions(torch.tensor(caption[:-1]), [1] * (len(caption) - 1), torch.tensor([0]))
        found.append(model.decode(memory, told).logits.double().log_softmax(-1).mean())  # [P,V] -> []
    model.train(was)
    return torch.stack(found).mean().item()
