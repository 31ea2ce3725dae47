"""Extend the vocabulary of a trained model; the weights of existing words do not change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captionkit.models.captioning_model import DECODERS, CaptioningModel
from captionkit.models.decoder import PackedCaptions

#: standard deviation of new rows around the mean of the old rows, relative to that of the old rows
_SPREAD = 0.1


@torch.no_grad()
def resize_token_embeddings(
    model: CaptioningModel, captions: Sequence[Sequence[int]], shares: Sequence[float], seed: int
) -> None:
    """Add words to the decoder of `model`, in place; `shares` are their relative frequencies, 0 to 1.

    The rows of the old words are unchanged to the bit. A new word's embedding and output row are the mean of the old
    ones plus noise from `seed`, which distinguishes the new words (Hewitt 2021, "Initializing New Word Embeddings for
    Pretrained Language Models"). Its bias makes its predicted probability about its frequency, measured on some
    `captions` (old token ids, <bos> first) with a blank image.
    """
    old = model.decoder
    typical = _typical(model, captions)
    mine = old.state_dict()
    words = old.embedding.num_embeddings
    width = model.config.memory or model.encoder.dim
    grown = DECODERS[model.config.decoder.name](model.config.decoder, width, words + len(shares))
    grown.to(old.embedding.weight.dtype)
    generator = torch.Generator().manual_seed(seed)
    rarity = torch.tensor(shares, dtype=torch.float64).log() - typical  # [N]
    wanted = grown.state_dict()
    for name, table in mine.items():
        if table.shape != wanted[name].shape:  # only tensors with one row per word change shape
            new = _rows(table, len(shares), generator) if table.ndim > 1 else table.mean() + rarity.to(table)
            wanted[name] = torch.cat([table, new])  # [V,...] and [N,...] -> [V+N,...]
        else:
            wanted[name] = table
    grown.load_state_dict(wanted)
    model.decoder = grown.train(old.training)


def _rows(table: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` new rows: the mean of `table` [V,W] plus noise -> [count,W]."""
    noise = torch.randn(count, table.shape[1], generator=generator).to(table)
    return table.mean(0) + _SPREAD * table.std() * noise


def _typical(model: CaptioningModel, captions: Sequence[Sequence[int]]) -> float:
    """Return the mean log-probability over all words of the vocabulary and all positions of `captions`.

    A row that is the mean of all rows would get this log-probability, since logits are linear in the rows.
    """
    was = model.training
    model.eval()
    weight = next(model.decoder.parameters())
    blank = weight.new_zeros(1, 1, model.encoder.dim)  # [1,1,D']: a grid of one cell
    memory = model.project(blank, (1, 1))
    found = []
    for caption in captions:
        packed = PackedCaptions(torch.tensor(caption[:-1]), [1] * (len(caption) - 1), torch.tensor([0]))
        found.append(model.decode(memory, packed).logits.double().log_softmax(-1).mean())  # [P,V] -> []
    model.train(was)
    return torch.stack(found).mean().item()
