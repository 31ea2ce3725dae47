"""Starting from a model: its vocabulary grows, its encoder thaws stage by stage, and it never gets worse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch

from captionkit.models.captioning import CaptioningModel, ModelConfig
from captionkit.models.encoder import EncoderConfig
from captionkit.models.growth import grow
from captionkit.text import Text
from captionkit.training.run import METRICS, RunFolder
from decoders import CAPTIONS, CONFIGS, pack

OLD = ["a red circle", "a red circle", "there is a green bar", "there is a bar on paper"]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for each test, and neither curves nor an export, which take longer than the training."""
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(RunFolder, "draw", lambda _: None)


def rows(run: Path, kind: str) -> list[dict]:
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


# --- the vocabulary ---


def test_a_grown_vocabulary_keeps_its_ids_and_its_rules() -> None:
    old = Text.train(OLD, min_frequency=1)
    grown = old.grown(["A GOLD bar's gold", "the gold boat, the café's <eos> bar", "boat café eos"], 2)
    assert grown.tokens[: len(old)] == old.tokens
    assert grown.tokens[len(old) :] == ("gold", "'s", "boat", "café", "eos", "the")  # the commonest first
    said = "The gold boat's café is red; what <unk> <eos>!"
    ids = grown.encode(said)
    assert grown.decode(ids) == "the gold boat's café is red <unk> <unk> eos"
    assert [ids[0], ids[-1]] == [old.bos_id, old.eos_id] and ids.count(old.unk_id) == 2
    assert grown.never_generated == old.never_generated
    for caption in OLD:
        assert grown.encode(caption) == old.encode(caption)
    assert old.grown(["gold"], 2) is old and old.grown([], 1) is old


def test_a_grown_vocabulary_goes_round_through_its_file(tmp_path: Path) -> None:
    grown = Text.train(OLD, min_frequency=1).grown(["gold gold", "un été en été"], 2)
    (tmp_path / "tokenizer.json").write_text(grown.to_json(), encoding="utf-8")
    again = Text.load(tmp_path / "tokenizer.json")
    assert again.tokens == grown.tokens and again.encode("un été gold") == grown.encode("un été gold")
    assert again.grown(["gold été un un"], 1).tokens == (*grown.tokens, "un")


def test_byte_pairs_spell_every_word_already() -> None:
    text = Text.train(OLD, kind="bpe", min_frequency=1, vocab_size=300)
    assert text.grown(["gold gold gold"], 1) is text


NEW_SHARES = [0.2, 0.01, 0.003]


def model_of(name: str) -> CaptioningModel:
    torch.manual_seed(0)
    model = CaptioningModel(ModelConfig(EncoderConfig("mobilenet-v2"), CONFIGS[name], memory=8), 13).eval()
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_growth_keeps_every_old_logit(name: str) -> None:
    model = model_of(name)
    memory = model.remember(torch.randn(3, 6, 1280), (2, 3))
    packed = pack(CAPTIONS)
    before, weights = model.decode(memory, packed).logits, {n: t.clone() for n, t in model.state_dict().items()}
    grow(model, [[1, 4, 5, 2], [1, 6, 2]], NEW_SHARES, seed=3)
    after = model.decode(memory, packed).logits
    assert after.shape == (len(packed.tokens), 16)
    torch.testing.assert_close(after[:, :13], before, rtol=0, atol=1e-5)
    for key, tensor in model.state_dict().items():
        kept = weights[key]
        assert torch.equal(tensor[: len(kept)] if kept.ndim else tensor, kept), key
        assert tensor.shape == kept.shape or tensor.shape == (16, *kept.shape[1:]), key
    grown = {key for key, tensor in model.state_dict().items() if tensor.shape != weights[key].shape}
    assert grown == {
        "decoder.embedding.weight",
        *(["decoder.bias"] if name == "transformer" else ["decoder.output.weight", "decoder.output.bias"]),
    }
    assert model.decoder.dropout.p == model.config.decoder.dropout and not model.training


@pytest.mark.parametrize("name", CONFIGS)
def test_new_words_start_about_as_common_as_they_are_and_differ(name: str) -> None:
    model = model_of(name)
    heard = [[1, 4, 5, 2], [1, 6, 9, 3, 2]]
    memory = model.remember(torch.zeros(2, 1, 1280), (1, 1))
    grow(model, heard, NEW_SHARES, seed=3)
    packed = pack([(1, heard[1][:-1]), (0, heard[0][:-1])])
    logits = model.decode(memory, packed).logits.double()
    # What they share with the old words alone, so that the new ones do not count among themselves.
    found = (logits[:, 13:] - logits[:, :13].logsumexp(-1, keepdim=True)).mean(0)
    torch.testing.assert_close(found, torch.tensor(NEW_SHARES).double().log(), rtol=0, atol=0.5)
    embedding = model.decoder.embedding.weight
    old = embedding[:13]
    assert (embedding[13:] - old.mean(0)).abs().max() < old.std()
    assert torch.cdist(embedding[13:], embedding[13:])[0, 1] > 0
    again = model_of(name)
    grow(again, heard, NEW_SHARES, seed=3)
    assert all(torch.equal(t, again.state_dict()[key]) for key, t in model.state_dict().items())
