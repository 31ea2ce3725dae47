"""The decoders, all by one contract: teacher-forced, stepped word by word, trained, kept, exported and resumed."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import captionkit
from captionkit.data.images import Preprocessing, preprocess
from captionkit.data.run_files import LAST
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import ModelError, RecipeError
from captionkit.inference.captioner import Captioner
from captionkit.inference.model_folder import TOKENIZER, WEIGHTS, open_model, write_model
from captionkit.models.captioning_model import DECODERS, CaptioningModel, ModelConfig
from captionkit.models.decoder import Padding
from captionkit.models.decoder_config import SIZES, ShowAttendTellConfig, ShowTellConfig, TransformerConfig
from captionkit.models.encoder import EncoderConfig
from captionkit.models.serialization import architecture, load_model, weights
from captionkit.models.show_tell import ShowTell
from captionkit.models.torch_stepper import TorchStepper
from captionkit.models.transformer_decoder import Transformer
from captionkit.training import run_setup
from captionkit.training.objectives.losses import losses
from captionkit.training.train_step import TrainStep
from captionkit.training.trainer import train
from decoders import CAPTIONS, CELLS, CONFIGS, WIDTH, WORDS, build, follow, pack, unpack
from kept import same_tensors
from sessions import start
from shapes import PICTURES, captions, draw, make_recipe, make_shapes

#: the same decoders as changes of the recipe of `shapes.make_recipe`
RECIPES: dict[str, dict[str, object]] = {
    "show-tell": {"decoder.name": "show-tell"},
    "soft": {"decoder.attention": 8},
    "hard": {"decoder.attention": 8, "decoder.kind": "hard", "loss.doubly_stochastic_weight": 0},
    "transformer": {
        "decoder.name": "transformer",
        "decoder.size": "tiny",
        "decoder.width": 32,
        "decoder.heads": 2,
        "loss.doubly_stochastic_weight": 0,
    },
}
every = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture
def memory() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, CELLS, WIDTH, dtype=torch.float64)


# --- the contract ---


@every
@torch.no_grad()
def test_telling_word_by_word_is_what_is_taught(name: str, memory: Tensor) -> None:
    decoder, packed = build(CONFIGS[name]), pack(CAPTIONS)
    decoded = decoder.decode(memory, packed)
    for n, (logits, (row, words)) in enumerate(zip(unpack(decoded.logits, packed.sizes), CAPTIONS, strict=True)):
        told, attention = follow(decoder, memory[row], words)
        torch.testing.assert_close(logits, told)
        torch.testing.assert_close(attention.sum(-1), torch.ones(len(words), dtype=torch.float64))
        if decoded.coverage is None:
            assert name == "show-tell" and torch.equal(attention, torch.full_like(attention, 1 / CELLS))
        else:
            torch.testing.assert_close(decoded.coverage[n].double(), attention.sum(0), rtol=1e-5, atol=1e-6)
            assert attention.max() > 1.5 / CELLS  # it does look somewhere
    other = memory.clone()
    other[1] += 1
    changed = unpack(decoder.decode(other, packed).logits, packed.sizes)
    same = [torch.equal(a, b) for a, b in zip(unpack(decoded.logits, packed.sizes), changed, strict=True)]
    assert same == [row != 1 for row, _ in CAPTIONS]


@every
@torch.no_grad()
def test_beams_follow_their_parents_and_share_their_picture(name: str, memory: Tensor) -> None:
    decoder, generator = build(CONFIGS[name]), np.random.default_rng(0)
    begun = decoder.begin(memory)
    state = dict(begun)
    assert all(value.shape[0] == 3 for value in begun.values())
    assert all(value.shape[1] == 1 for key, value in begun.items() if key.startswith("state."))
    paths: list[list[list[int]]] = [[[]] for _ in memory]  # for each image and beam, the words so far
    for beams in (1, 4, 4, 2, 5):
        parents = generator.integers(0, len(paths[0]), (3, beams))
        tokens = generator.integers(0, WORDS, (3, beams))
        paths = [
            [paths[b][parent] + [int(token)] for parent, token in zip(parents[b], tokens[b], strict=True)]
            for b in range(3)
        ]
        logits, attention, changed = decoder.step(torch.from_numpy(tokens), torch.from_numpy(parents), state)
        assert set(changed) == {key for key in begun if key.startswith("state.")}  # so memory.* is nowhere copied
        assert all(value.shape[:2] == (3, beams) for value in changed.values())
        state = {**state, **changed}
        for b, k in np.ndindex(3, beams):
            expected = follow(decoder, memory[b], paths[b][k])
            torch.testing.assert_close((logits[b, k], attention[b, k]), (expected[0][-1], expected[1][-1]))


def test_a_pictures_memory_is_made_once_for_all_words_and_beams(memory: Tensor) -> None:
    """A step touches what the image's keys and values were made of no more."""
    for name, config in CONFIGS.items():
        decoder, shapes = build(config), []
        state = decoder.begin(memory)
        for part in decoder.modules():
            if isinstance(part, nn.Linear):
                part.register_forward_pre_hook(lambda _, given, shapes=shapes: shapes.append(tuple(given[0].shape)))
        decoder.step(torch.ones(3, 4, dtype=torch.long), torch.zeros(3, 4, dtype=torch.long), state)
        assert shapes and not [shape for shape in shapes if shape[-2:] == (CELLS, WIDTH)], name


@every
def test_gradients_reach_every_parameter_and_dropout_is_for_training_alone(name: str, memory: Tensor) -> None:
    decoder, packed = build(CONFIGS[name]), pack(CAPTIONS)
    decoder.set_dropout(0.5)
    for training in (True, False):
        decoder.train(training)
        one, two = (decoder.decode(memory, packed).logits for _ in range(2))
        assert torch.equal(one, two) != training
    decoder.set_dropout(0)
    decoder.train()
    torch.manual_seed(0)
    found = losses(decoder.decode(decoder.add_position(memory, (2, 3)), packed), packed.tokens.roll(-1), 0.0)
    (found.objective + (found.auxiliary.terms["reward"] if found.auxiliary else 0)).backward()
    assert [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    if name not in ("hard", "show-tell"):  # which sample cells, and normalise over the batch
        decoder.eval()
        expected = decoder.decode(memory, packed).logits
        decoder.train()
        torch.testing.assert_close(decoder.decode(memory, packed).logits, expected)


def test_parameters_are_as_many_as_the_equations_have() -> None:
    e, h, a, v, d = 5, 7, 4, WORDS, WIDTH
    w, r, c = 12, 2, 3
    recurrent = v * e + (e + 1 + h) * 4 * h
    show_tell = recurrent + d * e + (h + 1) * v
    attend = recurrent + 4 * h * d + (d + 1 + h + 1) * a + 2 * (d + 1) * h + (h + 1) + (h + 1 + d) * e + (e + 1) * v
    layer = 6 * w + 4 * w * w + 3 * w + 2 * w * w + 2 * d * w + 3 * w + 8 * w * w + 5 * w
    expected = {
        "show-tell": show_tell,
        "soft": attend,
        "hard": attend,
        "transformer": (v + 2) * w + v + (r + c) * d + 2 * layer,
    }
    for name, config in CONFIGS.items():
        assert sum(p.numel() for p in build(config).parameters()) == expected[name], name


# --- each against something independent ---


@torch.no_grad()
def test_show_and_tell_is_torchs_lstm_fed_with_the_picture_first(memory: Tensor) -> None:
    decoder = build(CONFIGS["show-tell"])
    assert isinstance(decoder, ShowTell)
    lstm = nn.LSTM(5, 7, batch_first=True).double()
    lstm.weight_ih_l0[:], lstm.bias_ih_l0[:] = decoder.from_input.weight, decoder.from_input.bias
    lstm.weight_hh_l0[:] = decoder.from_hidden.weight
    lstm.bias_hh_l0.zero_()
    decoder.train()
    decoder.set_dropout(0)
    for _ in range(200):
        decoder.decode(memory, pack(CAPTIONS))
    pictures = decoder.picture(memory.mean(1))
    pictures = (pictures - pictures.mean(0)) / (pictures.var(0) + 1e-5).sqrt()  # of all images seen
    decoder.eval()
    packed = pack(CAPTIONS)
    forced = unpack(decoder.decode(memory, packed).logits, packed.sizes)
    assert sum(map(len, forced)) == len(packed.tokens)  # the image's own step says nothing
    for found, (row, words) in zip(forced, CAPTIONS, strict=True):
        inputs = torch.cat([pictures[row][None], decoder.embedding(torch.tensor(words))])
        hidden, _ = lstm(inputs[None])
        torch.testing.assert_close(found, decoder.output(hidden[0, 1:]))
    decoder.train()
    alone = decoder.decode(memory[:1], pack([(0, [1, 4])])).logits  # a batch of one image
    decoder.eval()
    torch.testing.assert_close(alone, decoder.decode(memory[:1], pack([(0, [1, 4])])).logits)


@torch.no_grad()
def test_the_transformer_is_torchs_own(memory: Tensor) -> None:
    width = 8  # torch's layers want a memory of their own width
    decoder = build(TransformerConfig(width=width, layers=2, heads=2, rows=2, columns=3), width)
    assert isinstance(decoder, Transformer)
    layers = [
        nn.TransformerDecoderLayer(
            width, 2, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
        )
        for _ in decoder.layers
    ]
    for theirs, ours in zip(layers, decoder.layers, strict=True):
        for attention, part in ((theirs.self_attn, ours.words), (theirs.multihead_attn, ours.grid)):
            attention.in_proj_weight[:] = torch.cat([part.query.weight, part.key.weight, part.value.weight])
            attention.in_proj_bias[:] = torch.cat([part.query.bias, torch.zeros(width), part.value.bias])
            attention.out_proj.load_state_dict(part.output.state_dict())
        for mine, its in zip(
            (ours.norm_words, ours.norm_grid, ours.norm_forward, ours.expand, ours.contract),
            (theirs.norm1, theirs.norm2, theirs.norm3, theirs.linear1, theirs.linear2),
            strict=True,
        ):
            its.load_state_dict(mine.state_dict())
    packed = pack(CAPTIONS)
    decoded = decoder.decode(memory, packed)
    for n, (found, (row, words)) in enumerate(zip(unpack(decoded.logits, packed.sizes), CAPTIONS, strict=True)):
        sinusoid = [
            [f(t / 10000 ** (2 * i / width)) for f in (math.sin, math.cos) for i in range(width // 2)]
            for t in range(len(words))
        ]
        x = decoder.embedding(torch.tensor(words)) * width**0.5 + torch.tensor(sinusoid, dtype=torch.float64)
        mask = nn.Transformer.generate_square_subsequent_mask(len(words), dtype=torch.float64)
        cells = memory[row][None]
        for theirs in layers:
            y = x if x.ndim == 3 else x[None]
            attended = y + theirs._sa_block(theirs.norm1(y), mask, None)
            _, weights = theirs.multihead_attn(
                theirs.norm2(attended), cells, cells
            )  # mean over heads; of the last layer
            x = theirs(y, cells, tgt_mask=mask)
        torch.testing.assert_close(
            found, decoder.norm(x[0]) @ decoder.embedding.weight.T + decoder.bias, rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(decoded.coverage[n], weights[0].sum(0).float(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_cells_have_places_on_grids_of_any_shape() -> None:
    decoder = build(CONFIGS["transformer"])
    assert isinstance(decoder, Transformer)
    row, column = decoder.row_embedding.weight.numpy(), decoder.column_embedding.weight.numpy()

    def stretched(table: np.ndarray, size: int) -> np.ndarray:
        at = (np.arange(size) + 0.5) * len(table) / size - 0.5
        return np.stack([np.interp(at, np.arange(len(table)), part) for part in table.T], 1)

    for rows, columns in ((2, 3), (3, 2), (1, 6), (5, 7)):
        placed = decoder.add_position(torch.zeros(2, rows * columns, WIDTH, dtype=torch.float64), (rows, columns))
        wanted = stretched(row, rows)[:, None] + stretched(column, columns)
        np.testing.assert_allclose(placed[1].numpy().reshape(rows, columns, WIDTH), wanted, atol=1e-12)
    six = torch.zeros(1, 6, WIDTH, dtype=torch.float64)
    assert torch.equal(decoder.add_position(six, None), decoder.add_position(six, (2, 3)))
    with pytest.raises(ModelError, match="a grid of 2 x 3 does not have 4 cells"):
        decoder.add_position(six[:, :4], None)


def test_sizes_are_refused_that_cannot_be() -> None:
    for size in SIZES.values():
        assert TransformerConfig(**size)
    for wrong in ({"width": 10, "heads": 4}, {"width": 9, "heads": 3}, {"layers": 0}, {"rows": 0}):
        with pytest.raises(ValueError, match="must be"):
            TransformerConfig(**wrong)
    with pytest.raises(ValueError, match="use 'soft' or 'hard'"):
        ShowAttendTellConfig(kind="firm")


def test_padding_there_and_back() -> None:
    sizes = pack(CAPTIONS).sizes
    padding = Padding(sizes, torch.device("cpu"))
    tokens = pack(CAPTIONS).tokens
    table = padding.pad(tokens)
    assert table.tolist() == [words + [0] * (6 - len(words)) for _, words in CAPTIONS]
    assert torch.equal(padding.pack(table), tokens)
    assert padding.sum(tokens[:, None])[:, 0].tolist() == [sum(words) for _, words in CAPTIONS]
    assert [CAPTIONS[n][1][t] for n, t in zip(padding.caption, padding.word, strict=True)] == tokens.tolist()


# --- in training ---


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and no export, which takes longer than the training."""
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "onnx", None)


def recipe_of(name: str, encoder: Path | str, changes: dict[str, object] | None = None):
    """The recipe of a decoder by its name in RECIPES."""
    foreign = {"transformer": ("embedding", "hidden", "attention"), "show-tell": ("attention",)}
    defaults = {"embedding": 512, "hidden": 512, "attention": 256}
    without = {f"decoder.{field}": defaults[field] for field in foreign.get(name, ())}
    return make_recipe(encoder, {**without, **RECIPES[name], **(changes or {})})


@pytest.mark.slow
@every
def test_a_resumed_run_is_the_same_bit_for_bit(
    name: str, data: Path, backbone: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(name, backbone, {"trainer.checkpoint_every": 3600, "trainer.patience": 0})
    original = TrainStep.step

    def interrupted(self, at: int, pictures):
        if at == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, at, pictures)

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "run", recipe)
    train(data, tmp_path / "run", resume=True)
    train(data, tmp_path / "alone", recipe)
    assert same_tensors(tmp_path / "run" / LAST, tmp_path / "alone" / LAST)
    stored = load_file(tmp_path / "run" / LAST)
    assert ("model/decoder.baseline" in stored) == (name == "hard")
    if name == "hard":
        words = len(run_setup.prepare(recipe, data).tokenizer)
        assert stored["model/decoder.baseline"].item() != pytest.approx(-math.log(words))


@pytest.mark.slow
@every
def test_sixteen_bits_are_near_thirty_two(name: str, data: Path, backbone: Path, tmp_path: Path, quick: None) -> None:
    found = []
    for precision in ("bf16", "no"):
        changes = {"trainer.precision": precision, "decoder.dropout": 0, "decoder.feature_dropout": 0}
        found.append(train(data, tmp_path / precision, recipe_of(name, backbone, changes)).best_loss)
    assert found[0] != found[1] and found[0] == pytest.approx(found[1], rel=0.05)


@pytest.mark.slow
def test_a_model_to_start_from_keeps_its_decoder(data: Path, backbone: Path, tmp_path: Path, quick: None) -> None:
    train(data, tmp_path / "first", recipe_of("transformer", backbone, {"trainer.epochs": 1}))
    init = {"trainer.init": tmp_path / "first" / "best"}
    plain = {"decoder.embedding": 512, "decoder.hidden": 512, "decoder.attention": 256}
    other = {"image.height": 48, "image.width": 64, "decoder.dropout": 0.25}  # an image of another shape
    for number, changes in enumerate([{}, other]):
        run = tmp_path / f"again{number}"
        train(data, run, make_recipe("mobilenet-edgetpu", {**plain, **init, **changes}))
        loaded = load_model(open_model(run / "best"))
        assert isinstance(loaded.decoder, Transformer)
        assert (loaded.decoder.config.rows, loaded.decoder.config.columns) == (4, 4)
    assert open_model(run / "best").grid == (6, 8)
    assert loaded.decoder.dropout.p == loaded.decoder.layers[0].dropout.p == 0.25
    for field, said in (
        ("decoder.attention=8", r"decoder\.attention = 8: the decoder is transformer"),
        ("decoder.width=64", r"decoder\.width = 64: .*best has 32; leave it out"),
        ("decoder.size=base", r"decoder\.size = 'base': .*best has 'another size'; leave it out"),
        ("decoder.name=show-tell", r"decoder\.name = 'show-tell': .*best has 'transformer'; leave it out"),
        ("loss.hard_reward=1", r"loss\.hard_reward = 1\.0: the decoder is transformer"),
    ):
        name, _, value = field.partition("=")
        with pytest.raises(RecipeError, match=said):
            run_setup.prepare(make_recipe("mobilenet-edgetpu", {**plain, **init, name: value}), data)
    with pytest.raises(RecipeError, match=r"decoder\.width = 30: must be even and a multiple of heads, which is 4"):
        run_setup.prepare(recipe_of("transformer", backbone, {"decoder.width": 30, "decoder.heads": 4}), data)


SEEN = Preprocessing(height=64, width=96, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a MobileNetV2 of random weights, whose norms have seen the images."""
    torch.manual_seed(0)
    text = Tokenizer.train(["a red circle"], min_frequency=1)
    config = ModelConfig(
        EncoderConfig("mobilenet-v2", batch_norm=True), ShowTellConfig(embedding=4, hidden=4), memory=4
    )
    model = CaptioningModel(config, len(text))
    pixels = torch.from_numpy(np.stack([preprocess(draw(*picture), SEEN) for picture in PICTURES[:6]]))
    with torch.no_grad():
        for _ in range(30):  # all that a random encoder needs to tell images apart
            model.encoder.train()(pixels)
    contents = {TOKENIZER: text.to_json().encode(), WEIGHTS: weights(model)}
    tables = {"architecture": architecture(model, SEEN), "preprocessing": SEEN.to_dict()}
    return write_model(tmp_path_factory.mktemp("mobilenet") / "model", tables, contents).path


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["transformers", "mobilenet-v2"])
@every
def test_a_model_learns_by_heart_and_says_the_same_from_its_graphs(
    name: str, encoder: str, backbone: Path, mobilenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="the extra `train` is not installed")
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    data = make_shapes(tmp_path / "data", train=6, val=0, each=1)
    (data / "captions.json").rename(data / "captions_train.json")
    shutil.copy(data / "captions_train.json", data / "captions_val.json")
    changes: dict[str, object] = {
        "decoder.dropout": 0,
        "decoder.feature_dropout": 0,
        "trainer.epochs": 200,
        "trainer.batch_size": 6,
        "loss.label_smoothing": 0,
        "optimizer.lr_encoder": 3e-3,
        "optimizer.lr_decoder": 3e-3 if name == "transformer" else 1e-2,
        "trainer.eval_every": 100,
        "trainer.patience": 0,
    }
    if encoder == "transformers":  # trained whole
        source: Path | str = backbone
        changes["encoder.train"] = "all"
    else:  # frozen: trained on what it has encoded once
        source = encoder
        changes |= {"encoder.weights": mobilenet, "image.height": SEEN.height, "image.width": SEEN.width}
    result = train(data, tmp_path / "run", recipe_of(name, source, changes))
    assert result.best_loss < 0.2
    folder = open_model(result.folder / "best")
    assert folder.runnable and folder.section("architecture")["decoder"]["name"] in DECODERS
    assert folder.section("export")["same_captions"] == 6
    onnx, torch_ = captionkit.load(folder.path), Captioner(folder, TorchStepper(load_model(folder)))
    for picture in PICTURES[:6]:
        ours, theirs = onnx.caption(draw(*picture)), torch_.caption(draw(*picture))
        assert ours.text == theirs.text == captions(*picture)[0]
        np.testing.assert_allclose(ours.attention, theirs.attention, atol=1e-4)
        assert ours.log_prob == pytest.approx(theirs.log_prob, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["show-tell", "hard", "transformer"])
def test_two_processes_go_together(name: str, data: Path, backbone: Path, tmp_path: Path, quick: None) -> None:
    import socket

    plain = {"decoder.dropout": 0, "decoder.feature_dropout": 0}
    recipe = recipe_of(name, backbone, {**plain, "trainer.batch_size": 5})
    train(data, tmp_path / "one", recipe)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    arguments = ["train", data, "--output", tmp_path / "two", *recipe.to_flags()]
    started = [
        start(arguments, tmp_path / f"log{rank}", {**launched, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    for process in started:
        process.join(240)
    logged = "".join((tmp_path / f"log{rank}").read_text() for rank in range(2))
    assert [process.exitcode for process in started] == [0, 0], logged
    one, two = (load_file(tmp_path / run / "best" / "model.safetensors") for run in ("one", "two"))
    if name == "hard":  # each process draws cells of its own
        assert two["decoder.baseline"].item() != pytest.approx(-math.log(one["decoder.embedding.weight"].shape[0]))
    elif name == "transformer":  # show-tell's norm sees each process' part alone
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 2e-5
