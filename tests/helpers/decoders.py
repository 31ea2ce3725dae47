"""Small decoders of every kind, and captions as they are packed in training and as they are fed word by word."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from captionkit.models.captioning_model import DECODERS
from captionkit.models.decoder import Decoder, PackedCaptions
from captionkit.models.decoder_config import DecoderConfig, ShowAttendTellConfig, ShowTellConfig, TransformerConfig

WORDS, CELLS, WIDTH = 13, 6, 8
# The row of the image, and the words that are fed: several captions of an image, of several lengths.
CAPTIONS = [(1, [1, 4, 9, 7, 2, 5]), (0, [1, 12, 4, 4]), (1, [1, 8, 6, 3]), (0, [1, 9, 5]), (2, [1])]

CONFIGS: dict[str, DecoderConfig] = {
    "show-tell": ShowTellConfig(embedding=5, hidden=7),
    "soft": ShowAttendTellConfig(embedding=5, hidden=7, attention=4),
    "hard": ShowAttendTellConfig(embedding=5, hidden=7, attention=4, kind="hard"),
    "transformer": TransformerConfig(width=12, layers=2, heads=3, rows=2, columns=3),
}


def build(config: DecoderConfig, memory: int = WIDTH, vocabulary: int = WORDS) -> Decoder:
    """A decoder in double precision, with larger weights than at the start of training."""
    torch.manual_seed(0)
    network = DECODERS[config.name](config, memory, vocabulary).double().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.7)
    return network


def pack(captions: Sequence[tuple[int, Sequence[int]]]) -> PackedCaptions:
    """Captions, longest first, in torch's own packing."""
    packed = pack_sequence([torch.tensor(words) for _, words in captions])
    return PackedCaptions(packed.data, packed.batch_sizes.tolist(), torch.tensor([row for row, _ in captions]))


def unpack(rows: Tensor, sizes: list[int]) -> list[Tensor]:
    """Packed rows [P,...] caption by caption."""
    steps = rows.split(sizes)
    return [torch.stack([step[n] for step in steps if n < len(step)]) for n in range(sizes[0])]


def follow(decoder: Decoder, memory: Tensor, words: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Feeds the words of one caption of one image [G,D] one at a time: logits [L,V], attention [L,G]."""
    state = decoder.begin(memory[None])
    logits, attention = [], []
    for word in words:
        found, looked, changed = decoder.step(torch.tensor([[word]]), torch.tensor([[0]]), state)
        state = {**state, **changed}
        logits.append(found[0, 0])
        attention.append(looked[0, 0])
    return torch.stack(logits), torch.stack(attention)
