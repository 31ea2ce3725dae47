"""The captioning model: the decoder against the paper's equations, its two ways of running, and its storage."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("transformers", reason="the extra `train` is not installed")

import torch
from torch import Tensor, nn

from captionkit.data.images import Preprocessing, preprocess
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import ModelError
from captionkit.inference.model_folder import TOKENIZER, WEIGHTS, open_model, write_model
from captionkit.inference.search import Begun, Decoding, search
from captionkit.models import show_attend_tell
from captionkit.models.captioning_model import CaptioningModel, ModelConfig
from captionkit.models.decoder import Decoded
from captionkit.models.decoder_config import ShowAttendTellConfig
from captionkit.models.encoder import EncoderConfig
from captionkit.models.huggingface import load_huggingface_encoder
from captionkit.models.serialization import architecture, load_model, weights
from captionkit.models.show_attend_tell import ShowAttendTell
from captionkit.models.torch_stepper import TorchStepper
from decoders import CAPTIONS, CELLS, WIDTH, WORDS, follow, pack, unpack
from shapes import draw, make_backbone


@pytest.fixture
def decoder() -> ShowAttendTell:
    torch.manual_seed(0)
    network = ShowAttendTell(ShowAttendTellConfig(embedding=5, hidden=7, attention=4), WIDTH, WORDS).double().eval()
    for parameter in network.parameters():  # larger than at the start of training: attention that is far from even
        nn.init.normal_(parameter)
    return network


@pytest.fixture
def memory() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, CELLS, WIDTH, dtype=torch.float64)


def by_the_paper(decoder: ShowAttendTell, cells: np.ndarray, words: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Equations 1 to 7 and 9 of arXiv 1502.03044, cell by cell and word by word, for one caption of one image."""
    w = {name: parameter.detach().numpy() for name, parameter in decoder.named_parameters()}

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    mean = sum(cells) / len(cells)
    h = np.tanh(w["init_h.weight"] @ mean + w["init_h.bias"])
    c = np.tanh(w["init_c.weight"] @ mean + w["init_c.bias"])
    size = len(h)
    rows = {gate: slice(k * size, (k + 1) * size) for k, gate in enumerate("ifgo")}
    logits, attention = [], []
    for word in words:
        ey = w["embedding.weight"][word]
        energy = np.array(
            [
                w["attention.score.weight"][0]
                @ np.tanh(w["attention.key.weight"] @ a + w["attention.key.bias"] + w["attention.query.weight"] @ h)
                for a in cells
            ]
        )
        alpha = np.exp(energy) / np.exp(energy).sum()
        beta = sigmoid(w["gate.weight"] @ h + w["gate.bias"])
        z = beta * sum(share * a for share, a in zip(alpha, cells, strict=True))
        gates = {
            gate: w["from_word.weight"][part] @ ey
            + w["from_word.bias"][part]
            + w["from_hidden.weight"][part] @ h
            + w["from_context.weight"][part] @ z
            for gate, part in rows.items()
        }
        c = sigmoid(gates["f"]) * c + sigmoid(gates["i"]) * np.tanh(gates["g"])
        h = sigmoid(gates["o"]) * np.tanh(c)
        deep = ey + w["output_h.weight"] @ h + w["output_h.bias"] + w["output_z.weight"] @ z
        logits.append(w["output.weight"] @ deep + w["output.bias"])
        attention.append(alpha)
    return np.array(logits), np.array(attention)


@pytest.mark.parametrize("few", [CELLS - 1, CELLS], ids=["many cells", "few cells"])
@torch.no_grad()
def test_both_ways_of_running_are_the_papers_equations(decoder, memory, few, monkeypatch):
    monkeypatch.setattr(show_attend_tell, "_FEW_CELLS", few)
    decoded = decoder.decode(memory, pack(CAPTIONS))
    forced = unpack(decoded.logits, pack(CAPTIONS).sizes)
    for n, (row, words) in enumerate(CAPTIONS):
        logits, attention = by_the_paper(decoder, memory[row].numpy(), words)
        stepped = follow(decoder, memory[row], words)
        np.testing.assert_allclose(forced[n], logits, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(stepped[0], logits, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(stepped[1], attention, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(decoded.coverage[n], attention.sum(0), rtol=1e-5)
        assert attention.max() > 1.5 / CELLS  # it does look somewhere


def test_the_recurrence_is_torchs_lstm(decoder, memory):
    cell = nn.LSTMCell(5 + WIDTH, 7).double()
    with torch.no_grad():
        cell.weight_ih[:] = torch.cat([decoder.from_word.weight, decoder.from_context.weight], 1)
        cell.weight_hh[:] = decoder.from_hidden.weight
        cell.bias_ih[:] = decoder.from_word.bias
        cell.bias_hh.zero_()
        state = decoder.begin(memory)
        h, c = state["state.h"], state["state.c"]
        z = decoder.attention(h, state["memory.keys"]) @ memory * decoder.gate(h).sigmoid()
        words = torch.tensor([[3], [4], [5]])
        expected = cell(torch.cat([decoder.embedding(words), z], -1)[:, 0], (h[:, 0], c[:, 0]))
        _, _, changed = decoder.step(words, torch.zeros_like(words), state)
    torch.testing.assert_close((changed["state.h"][:, 0], changed["state.c"][:, 0]), expected)


@torch.no_grad()
def test_pictures_do_not_touch_one_another(decoder, memory):
    decoded = decoder.decode(memory, pack(CAPTIONS))
    other = memory.clone()
    other[1] = 0
    changed = decoder.decode(other, pack(CAPTIONS))
    before, after = (unpack(d.logits, pack(CAPTIONS).sizes) for d in (decoded, changed))
    same = [torch.equal(x, y) for x, y in zip(before, after, strict=True)]
    assert same == [row != 1 for row, _ in CAPTIONS]


def penalised(decoded: Decoded, targets: Tensor) -> Tensor:
    """What training minimises: cross-entropy and the doubly stochastic penalty."""
    return nn.functional.cross_entropy(decoded.logits, targets) + (1 - decoded.coverage).square().mean()


def test_gradients_reach_every_parameter(tmp_path):
    encoder, config = load_huggingface_encoder(EncoderConfig(str(make_backbone(tmp_path / "resnet"))))
    for width in (0, 10):
        decoder = ShowAttendTellConfig(embedding=6, hidden=7, attention=5)
        model = CaptioningModel(ModelConfig(config, decoder, memory=width), WORDS, encoder=encoder).train()
        captions = pack(CAPTIONS)
        model.zero_grad()
        penalised(model(torch.randn(3, 3, 32, 32), None, captions), captions.tokens.roll(-1)).backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []


def test_kept_features_give_what_the_pictures_give(tmp_path):
    encoder, config = load_huggingface_encoder(EncoderConfig(str(make_backbone(tmp_path / "resnet"))))
    decoder = ShowAttendTellConfig(embedding=6, hidden=7, attention=5)
    model = CaptioningModel(ModelConfig(config, decoder), WORDS, encoder=encoder)
    model.encoder.train_from(None)
    model.eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        seen, kept = model(images, None, pack(CAPTIONS)), model(None, model.features(images), pack(CAPTIONS))
    torch.testing.assert_close(seen, kept)


def test_dropout_is_for_training_alone(decoder, memory):
    captions = pack(CAPTIONS)
    for training in (True, False):
        decoder.train(training)
        one, two = (decoder.decode(memory, captions).logits for _ in range(2))
        assert torch.equal(one, two) != training


def test_unknown_decoders_are_refused():
    with pytest.raises(ModelError, match="decoder 'show' is unknown; use show-attend-tell, show-tell, transformer"):
        CaptioningModel(ModelConfig(decoder=ShowAttendTellConfig("show")), WORDS)


TEXT = Tokenizer.train(["a red circle", "a green square on paper", "there is a blue bar", "gold"], min_frequency=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CaptioningModel:
    """A small model with random weights; not to be changed."""
    encoder, config = load_huggingface_encoder(
        EncoderConfig(str(make_backbone(tmp_path_factory.mktemp("backbone") / "resnet")))
    )
    network = CaptioningModel(
        ModelConfig(config, ShowAttendTellConfig(embedding=6, hidden=7, attention=5), memory=10),
        len(TEXT),
        encoder=encoder,
    )
    for parameter in network.decoder.parameters():
        nn.init.normal_(parameter)
    encoder.train_from(None)
    return network.eval()


def test_the_stepper_keeps_its_contract(model):
    stepper = TorchStepper(model)
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 48)).astype(np.float32)
    state = stepper.begin(images)
    rows, columns = model.encoder.grid(32, 48)
    before = 1
    for beams, top_k in ((1, 4), (3, 2), (2, 1000)):
        tokens, parents = np.full((2, beams), TEXT.bos_id), np.full((2, beams), before - 1)
        log_probs, ids, attention, state = stepper.step(tokens, parents, state, top_k)
        before = beams
        ranked = min(top_k, len(TEXT))
        assert log_probs.shape == ids.shape == (2, beams, ranked)
        assert attention.shape == (2, beams, rows * columns)
        assert (log_probs.dtype, ids.dtype, attention.dtype) == (np.float32, np.int64, np.float32)
        assert (np.diff(log_probs) <= 0).all()
        np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-5)
        if ranked == len(TEXT):
            np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=1e-5)
            assert (np.sort(ids) == np.arange(ranked)).all()


def test_search_over_the_stepper_says_what_the_model_says(model):
    """Each hypothesis' probabilities and attention are those that teacher forcing finds."""
    images = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
    stepper = TorchStepper(model)
    found = search(
        stepper, Begun(stepper.begin(images), images), Decoding(num_beams=4, num_captions=3, max_length=6), TEXT.special
    )
    memory = model.encode(torch.from_numpy(images))
    for row, hypotheses in enumerate(found):
        assert len(hypotheses) == 3
        for hypothesis in hypotheses:
            fed = [TEXT.bos_id, *hypothesis.tokens.tolist()]
            with torch.no_grad():
                log_probs = model.decode(memory[row : row + 1], pack([(0, fed)])).logits.log_softmax(-1)
                attention = follow(model.decoder, memory[row], fed)[1]
            said = log_probs[range(len(fed) - 1), fed[1:]].numpy()
            np.testing.assert_allclose(hypothesis.token_log_probs, said, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(hypothesis.attention, attention[:-1], rtol=1e-4, atol=1e-5)
            assert not set(hypothesis.tokens.tolist()) & TEXT.never_generated


PREPROCESSING = Preprocessing(height=32, width=48)


def keep(path: Path, model: CaptioningModel, *, half: bool = False, **changes) -> Path:
    """Write a model folder; `changes` replace entries of its architecture, or leave them out (None)."""
    table = {**json.loads(json.dumps(architecture(model, PREPROCESSING))), **changes}
    config = {"architecture": {key: value for key, value in table.items() if value is not None}}
    write_model(path, config, {TOKENIZER: TEXT.to_json().encode(), WEIGHTS: weights(model, half=half)})
    return path


@pytest.mark.parametrize("half", [False, True])
def test_save_and_load(half, model, tmp_path):
    folder = open_model(keep(tmp_path / "model", model, half=half))
    loaded = load_model(folder)
    assert loaded.config == model.config
    assert folder.grid == model.encoder.grid(32, 48)
    assert loaded.encoder.frozen and not any(module.training for module in loaded.modules())
    expected = model.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    for name, tensor in loaded.state_dict().items():
        stored = expected[name].half().float() if half and tensor.is_floating_point() else expected[name]
        assert tensor.dtype == stored.dtype and torch.equal(tensor, stored), name
    if half:
        assert (folder.path / WEIGHTS).stat().st_size < 0.6 * len(weights(model))


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": 12},
        {"memory": "wide"},
        {"memory": -1},
        {"encoder": None},
        {"decoder": {"name": "show-attend-tell", "hidden": 99}},
        {"decoder": {"name": "show-attend-tell", "layers": 2}},
        {"decoder": {"name": "unheard-of"}},
        {"decoder": {"embedding": 6}},
        {"decoder": {"name": "show-attend-tell", "kind": "firm"}},
        {"decoder": {"name": "transformer", "width": 10, "heads": 4}},
        {"decoder": {"name": "transformer", "layers": 0}},
        {"encoder": {"name": "mobilenet-v2"}},
        {"encoder": {"name": "mine", "backbone": {"model_type": "unheard-of"}}},
        {"sizes": 3},
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(changes, model, tmp_path):
    folder = open_model(keep(tmp_path / "model", model, **changes))
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith((str(folder.path), "decoder", "encoder"))


def test_weights_that_do_not_fit_are_refused_in_one_line(model, tmp_path):
    table = {"architecture": architecture(model, PREPROCESSING)}
    for content in (b"", b"not safetensors", weights(model)[:-8]):
        write_model(tmp_path / "model", table, {TOKENIZER: TEXT.to_json().encode(), WEIGHTS: content})
        with pytest.raises(ModelError, match=r"model.safetensors: does not fit the architecture \(.+\); get it again"):
            load_model(open_model(tmp_path / "model"))


# Of several lengths, so that images drop out of the packed batch one after another.
DRAWN = {
    ("red", "circle"): "a red circle",
    ("green", "square"): "a green square on paper",
    ("blue", "bar"): "there is a blue bar",
    ("gold", "circle"): "gold",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frozen", "whole"])
def test_a_model_learns_four_pictures_by_heart(kind, tmp_path):
    torch.manual_seed(0)
    if kind == "whole":
        encoder, config = load_huggingface_encoder(EncoderConfig(str(make_backbone(tmp_path / "resnet"))))
    else:
        encoder, config = None, EncoderConfig("mobilenet-v2", batch_norm=True)
    decoder = ShowAttendTellConfig(embedding=24, hidden=32, attention=16, dropout=0.1)
    model = CaptioningModel(ModelConfig(config, decoder, memory=32), len(TEXT), encoder=encoder)
    seen = dataclasses.replace(model.encoder.preprocessing(), height=32, width=32)
    pictures = torch.from_numpy(np.stack([preprocess(draw(*drawn), seen) for drawn in DRAWN]))
    if kind == "frozen":
        with torch.no_grad():
            for _ in range(30):  # statistics for its norms, all that a random encoder needs to tell images apart
                model.encoder.train()(pictures)
        model.encoder.train_from(None)
    model.train()
    with torch.no_grad():
        features = model.features(pictures) if kind == "frozen" else None

    ordered = sorted(enumerate(map(TEXT.encode, DRAWN.values())), key=lambda caption: -len(caption[1]))
    captions = pack([(row, ids[:-1]) for row, ids in ordered])
    targets = pack([(row, ids[1:]) for row, ids in ordered]).tokens
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        penalised(model(pictures, features, captions), targets).backward()
        optimizer.step()

    stepper = TorchStepper(model.eval())
    for beam in (1, 3):
        begun = Begun(stepper.begin(pictures.numpy()), pictures)
        found = search(stepper, begun, Decoding(num_beams=beam, max_length=8), TEXT.special)
        assert [TEXT.decode(hypotheses[0].tokens) for hypotheses in found] == list(DRAWN.values())
        assert all(hypotheses[0].finished for hypotheses in found)
