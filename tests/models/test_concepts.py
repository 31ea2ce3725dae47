"""The concept head: its loss, what its evidence does to the logits, new words, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

import torch
from torch import Tensor, nn

from captionkit.inference.search import CONCEPTS
from captionkit.models.captioning_model import CaptioningModel, ModelConfig
from captionkit.models.concepts import ConceptHead
from captionkit.models.encoder import EncoderConfig
from decoders import CAPTIONS, CELLS, CONFIGS, WIDTH, WORDS, follow, pack

HIDDEN = 5


@pytest.fixture
def memory() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, CELLS, WIDTH, dtype=torch.float64)


def head(seed: int = 0) -> ConceptHead:
    """A head with larger weights than at the start of training."""
    torch.manual_seed(seed)
    made = ConceptHead(WIDTH, HIDDEN, WORDS).double().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.7)
    return made


def model(name: str, weight: float, concepts: int = HIDDEN) -> CaptioningModel:
    torch.manual_seed(0)
    config = ModelConfig(EncoderConfig("mobilenet-v2"), CONFIGS[name], WIDTH, 0.0, concepts, weight)
    made = CaptioningModel(config, WORDS).double().eval()
    for parameter in [*made.decoder.parameters(), *(made.concepts.parameters() if made.concepts else ())]:
        nn.init.normal_(parameter, std=0.7)
    return made


def test_a_new_head_has_no_evidence(memory: Tensor) -> None:
    made = ConceptHead(WIDTH, HIDDEN, WORDS).double()
    assert torch.equal(made(memory), torch.zeros(3, WORDS, dtype=torch.float64))


def test_loss_is_the_cross_entropy_with_the_share_of_captions_that_use_a_word(memory: Tensor) -> None:
    made = head()
    made.set_base_rates(np.linspace(0, 1, WORDS).tolist())
    captions = [(row, [*words, 2]) for row, words in CAPTIONS]
    packed = pack([(row, words[:-1]) for row, words in captions])
    steps = [[words[t + 1] for _, words in captions if len(words) > t + 1] for t in range(len(captions[0][1]) - 1)]
    targets = torch.tensor([word for step in steps for word in step])
    expected = 0.0
    evidence = made(memory)
    for row in range(3):
        some = [set(words[1:]) for at, words in captions if at == row]
        for word in range(1, WORDS - 1):  # the rates of the first and the last are 0 and 1: nothing to learn
            share = sum(word in words for words in some) / len(some)
            chance = (made.base[word] + evidence[row, word]).sigmoid()
            expected -= (share * chance.log() + (1 - share) * (1 - chance).log()).item()
    assert made.loss(evidence, packed, targets).item() == pytest.approx(expected)


def test_base_rates_are_log_odds_and_never_infinite() -> None:
    made = ConceptHead(WIDTH, HIDDEN, 3).double()
    made.set_base_rates([0.0, 0.25, 1.0])
    assert made.base[1].item() == pytest.approx(np.log(1 / 3))
    assert torch.isfinite(made.base).all()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("weight", [0.0, 0.3])
@torch.no_grad()
def test_word_by_word_is_teacher_forcing_with_the_evidence(name: str, weight: float, memory: Tensor) -> None:
    whole, plain = model(name, weight), model(name, 0.0, 0)
    plain.load_state_dict({key: value for key, value in whole.state_dict().items() if not key.startswith("concepts.")})
    packed = pack(CAPTIONS)
    decoded, without = whole.decode(memory, packed), plain.decode(memory, packed)
    evidence = whole.concepts(memory) if whole.concepts else None
    torch.testing.assert_close(decoded.evidence, evidence)
    rows = torch.cat([packed.image_index[:size] for size in packed.sizes])  # [P]
    torch.testing.assert_close(decoded.logits, without.logits + weight * evidence.clamp(-4, 4)[rows])
    told, _ = follow(whole, memory[1], CAPTIONS[0][1])
    first = torch.tensor(packed.sizes).cumsum(0) - torch.tensor(packed.sizes)  # the longest caption's words
    torch.testing.assert_close(decoded.logits[first], told)
    assert torch.equal(whole.begin(memory)[CONCEPTS], evidence)


def test_what_helps_the_decoder_does_not_move_the_head(memory: Tensor) -> None:
    made = model("soft", 0.3)
    made.decode(memory, pack(CAPTIONS)).logits.sum().backward()
    assert all(parameter.grad is None for parameter in made.concepts.parameters())


@torch.no_grad()
def test_new_words_leave_the_evidence_of_the_old_ones(memory: Tensor) -> None:
    made = head()
    before = made(memory)
    made.extend([0.2, 0.3])
    torch.testing.assert_close(made(memory)[:, :WORDS], before)
    assert torch.equal(made(memory)[:, WORDS:], torch.zeros(3, 2, dtype=torch.float64))
    torch.testing.assert_close(made.base[WORDS:], torch.tensor([0.2, 0.3], dtype=torch.float64).logit())


def test_it_learns_which_images_have_which_words() -> None:
    torch.manual_seed(0)
    made = ConceptHead(WIDTH, 16, WORDS)
    memory = torch.randn(40, CELLS, WIDTH)
    shown = memory.mean(1)[:, 0] > 0  # word 5 where it is, else word 6
    words = torch.where(shown, 5, 6).tolist()
    packed, targets = pack([(row, [1, 4]) for row in range(40)]), torch.tensor([4] * 40 + words)
    made.set_base_rates([0, 0, 0, 0, 1, 0.5, 0.5, *[0] * (WORDS - 7)])
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        made.loss(made(memory), packed, targets).backward()
        optimizer.step()
    evidence = made(memory)
    assert ((evidence[:, 5] > evidence[:, 6]) == shown).all()
    assert not evidence[:, 4].any()  # every caption has it: no image adds to that
