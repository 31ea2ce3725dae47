"""The summary of a model, against counts by hand and published ones."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from captionkit.cli import main as cli
from captionkit.data.images import Preprocessing
from captionkit.errors import ModelError
from captionkit.inference.model_folder import open_model
from captionkit.models.captioning_model import CaptioningModel, ModelConfig
from captionkit.models.decoder_config import ShowAttendTellConfig, ShowTellConfig, TransformerConfig
from captionkit.models.encoder import Encoder, EncoderConfig
from captionkit.models.summary import BEAM, WORDS, ModelSummary, summarize, summarize_folder
from tiers import slow

CHANNELS, MEMORY, VOCABULARY = 8, 20, 50
E, H, A = 16, 24, 12  # of show-attend-tell
STEPS = WORDS + 1


class Look(nn.Module):
    """Self-attention of the cells, one head."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Linear(CHANNELS, 3 * CHANNELS)

    def forward(self, cells: Tensor) -> Tensor:
        return scaled_dot_product_attention(*(x.unsqueeze(1) for x in self.parts(cells).chunk(3, -1))).squeeze(1)


class Small(Encoder):
    """A convolution, attention, and a parameter outside of both."""

    dim = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, 2, 1)
        self.look = Look()
        self.place = nn.Parameter(torch.zeros(CHANNELS))

    @property
    def stages(self) -> list[nn.Module]:
        return [self.conv, self.look]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return (height + 1) // 2, (width + 1) // 2

    def preprocessing(self) -> Preprocessing:
        return Preprocessing()

    def forward(self, images: Tensor) -> Tensor:
        return self.look(self.conv(images).flatten(2).transpose(1, 2) + self.place)


def model(decoder, memory: int = MEMORY) -> CaptioningModel:
    torch.manual_seed(0)
    return CaptioningModel(ModelConfig(EncoderConfig(), decoder, memory), VOCABULARY, encoder=Small()).eval()


SHOW_ATTEND_TELL = ShowAttendTellConfig(embedding=E, hidden=H, attention=A)
TRANSFORMER = TransformerConfig(width=32, layers=2, heads=4, rows=4, columns=6)
G = 4 * 6  # cells of an image of 8 x 12


def by_name(summary: ModelSummary) -> dict:
    return {part.name: part for part in summary.parts}


def test_encoder_and_neck_by_hand():
    parts = by_name(summarize(model(SHOW_ATTEND_TELL), 8, 12))
    conv, look, neck = parts["encoder.0"], parts["encoder.1"], parts["neck"]
    assert (conv.kind, conv.output, conv.parameters) == ("Conv2d", [1, CHANNELS, 4, 6], CHANNELS * 27 + CHANNELS)
    assert conv.image_flops == 2 * G * CHANNELS * 3 * 3 * 3
    assert look.output == [1, G, CHANNELS]
    assert look.image_flops == 2 * G * CHANNELS * 3 * CHANNELS + 2 * G * G * CHANNELS * 2
    assert neck.image_flops == 2 * G * CHANNELS * MEMORY and neck.output == [1, G, MEMORY]
    assert parts["encoder"].parameters == CHANNELS and parts["encoder"].image_flops == 0
    assert not any(part.word_flops for part in (conv, look, neck))
    assert conv.activations == 3 * 8 * 12 * 4, "for its backward pass a convolution keeps its input"


def test_show_attend_tell_by_hand():
    summary = summarize(model(SHOW_ATTEND_TELL), 8, 12)
    parts = by_name(summary)
    word = {
        "decoder.attention": H * A + G * A,
        "decoder.gate": H,
        "decoder.from_word": E * 4 * H,
        "decoder.from_hidden": H * 4 * H,
        "decoder.output_h": H * E,
        "decoder.output": E * VOCABULARY,
        "decoder": G * (4 * H + E),  # what the context vector gives, from what each cell would
    }
    assert {name: part.word_flops for name, part in parts.items() if part.word_flops} == {
        name: 2 * products for name, products in word.items()
    }
    once = {
        "decoder": G * MEMORY * (4 * H + E),
        "decoder.attention": G * MEMORY * A,
        "decoder.init_h": MEMORY * H,
        "decoder.init_c": MEMORY * H,
    }
    found = {n: p.image_flops for n, p in parts.items() if p.image_flops and n.startswith("decoder")}
    assert found == {name: 2 * products for name, products in once.items()}
    assert parts["decoder.output"].output == [1, 1, VOCABULARY]
    assert parts["decoder.embedding"].parameters == VOCABULARY * E
    assert summary.word_flops == 2 * sum(word.values())
    assert summary.begin_flops == parts["neck"].image_flops + sum(found.values())
    hypotheses = 1 + WORDS * BEAM  # the first step has one
    assert summary.caption_flops == summary.encoder_flops + summary.begin_flops + hypotheses * summary.word_flops


def test_transformer_by_hand():
    summary = summarize(model(TRANSFORMER), 8, 12)
    width, layers = TRANSFORMER.width, TRANSFORMER.layers

    def step(words: int) -> int:
        attended, seen = 4 * width * width + 2 * words * width, 2 * width * width + 2 * G * width
        return 2 * (layers * (attended + seen + 8 * width * width) + width * VOCABULARY)

    steps = [step(words) for words in range(1, STEPS + 1)]
    assert summary.word_flops == pytest.approx(sum(steps) / STEPS)
    assert summary.begin_flops == 2 * G * CHANNELS * MEMORY + layers * 2 * 2 * G * MEMORY * width
    beam = steps[0] + BEAM * sum(steps[1:])
    assert summary.caption_flops == summary.encoder_flops + summary.begin_flops + beam
    names = [part.name for part in summary.parts]
    assert "decoder.layers.0" in names and "decoder.layers.1" in names and "decoder.layers" not in names
    own = by_name(summary)["decoder"]
    assert own.parameters == VOCABULARY, "the bias, which is in no part"


@pytest.mark.parametrize("decoder", [SHOW_ATTEND_TELL, *slow(ShowTellConfig(embedding=E, hidden=H), TRANSFORMER)])
@pytest.mark.parametrize("memory", [MEMORY, *slow(0)])
def test_parts_add_up_and_the_model_stays_as_it_was(decoder, memory):
    network = model(decoder, memory)
    network.encoder.train_from(-1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradients = [p.requires_grad for p in network.parameters()]
    images = torch.randn(1, 3, 8, 12)
    with torch.no_grad():
        memory_before = network.encode(images)
    summary = summarize(network, 8, 12)
    total = sum(p.numel() for p in network.parameters())
    assert summary.parameters == total == sum(part.parameters for part in summary.parts)
    untrained = sum(p.numel() for p in (*network.encoder.conv.parameters(), network.encoder.place))
    assert summary.trained == total - untrained == sum(part.trained for part in summary.parts)
    assert summary.weights == sum(t.numel() * t.element_size() for t in network.state_dict().values())
    with torch.no_grad():
        assert torch.equal(network.encode(images), memory_before)
    assert [p.requires_grad for p in network.parameters()] == gradients
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("name", "billions", "millions"), [("mobilenet-v2", 0.30, 2.21), *slow(("mobilenet-edgetpu", 0.99, 2.79))]
)
def test_encoders_take_what_is_published(name, billions, millions):
    """Multiply-adds at 224 x 224 (Howard and Gupta 2019; Sandler et al. 2018, table 4)."""
    network = CaptioningModel(ModelConfig(EncoderConfig(name), SHOW_ATTEND_TELL), VOCABULARY)
    summary = summarize(network, 224, 224)
    assert summary.encoder_flops / 2e9 == pytest.approx(billions, abs=0.005)
    encoder = [part for part in summary.parts if part.name.startswith("encoder")]
    assert sum(part.parameters for part in encoder) / 1e6 == pytest.approx(millions, abs=0.006)
    assert encoder[0].output == [1, 32, 112, 112] and encoder[-1].output == [1, 1280, 7, 7]
    assert summarize(network, 448, 224).encoder_flops == 2 * summary.encoder_flops


@pytest.mark.parametrize("family", ["vit", *slow("beit")])
def test_a_backbone_still_works_after_it(family, tmp_path):
    hf = pytest.importorskip("transformers", reason="the extra `train` is not installed")
    from captionkit.models.huggingface import load_huggingface_encoder

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    kinds = {"vit": hf.ViTConfig, "beit": lambda **more: hf.BeitConfig(use_relative_position_bias=True, **more)}
    torch.manual_seed(0)
    hf.AutoModel.from_config(kinds[family](image_size=32, patch_size=8, **sizes)).save_pretrained(tmp_path)
    encoder, config = load_huggingface_encoder(EncoderConfig(str(tmp_path)))
    network = CaptioningModel(ModelConfig(config, SHOW_ATTEND_TELL), VOCABULARY, encoder=encoder).eval()
    images = torch.randn(2, 3, 40, 72)
    with torch.no_grad():
        expected = network.encode(images)
        summary = summarize(network, 40, 72)
        torch.testing.assert_close(network.encode(images), expected)
    parts = by_name(summary)
    assert sum(part.parameters for part in summary.parts) == summary.parameters
    cells = 5 * 9 + 1
    layer = 4 * cells * 32 * 32 + 2 * cells * cells * 32 + 2 * cells * 32 * 64
    assert parts["encoder.1"].image_flops == 2 * layer and parts["encoder.1"].output == [1, cells, 32]


def test_a_size_that_the_encoder_refuses_is_named(tmp_path):
    hf = pytest.importorskip("transformers", reason="the extra `train` is not installed")
    from captionkit.models.huggingface import load_huggingface_encoder

    hf.AutoModel.from_config(hf.LevitConfig(image_size=64)).save_pretrained(tmp_path)
    encoder, config = load_huggingface_encoder(EncoderConfig(str(tmp_path)))
    network = CaptioningModel(ModelConfig(config, SHOW_ATTEND_TELL), VOCABULARY, encoder=encoder)
    with pytest.raises(ModelError, match="takes no images of 64 x 96 pixels"):
        summarize(network, 64, 96)


def test_inspect_tells_the_parts(untrained, capsys):
    expected = summarize_folder(open_model(untrained))
    assert cli.main(["inspect", str(untrained), "--json"]) == 1, "it has no graphs"
    report = json.loads(capsys.readouterr().out)
    assert report["summary"] == json.loads(json.dumps(expected.to_dict()))
    assert report["summary"]["image_size"] == [64, 96] and report["files"]["model.safetensors"] > expected.weights
    assert cli.main(["inspect", str(untrained)]) == 1
    out = capsys.readouterr().out
    table = out.partition("\n\n")[2].partition("\nparameters")[0]
    lines = {line.split()[0]: line for line in table.splitlines()}
    for part in expected.parts:
        assert part.kind in lines[part.name] and f"{part.parameters:,}" in lines[part.name]
    assert "[B, 32, 32, 48]" in lines["encoder.0"] and "model.safetensors" in out
    assert f"{expected.caption_flops / 1e9:.3f} GFLOPs in all, for 11 words at beam 3" in out


@pytest.mark.parametrize(
    ("recipe", "stages"), [({"train": "all"}, 19), ({"train": "stages", "first_stage": -2}, 2), ({}, 0)]
)
def test_trained_is_what_the_recipe_trained(recipe, stages, untrained, tmp_path):
    folder = Path(shutil.copytree(untrained, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["provenance"] = {"recipe": {"encoder": recipe}} if recipe else {}
    (folder / "config.json").write_text(json.dumps(config))
    parts = summarize_folder(open_model(folder)).parts
    encoder = [part for part in parts if part.name.startswith("encoder.")]
    assert [part.trained > 0 for part in encoder] == [False] * (19 - stages) + [True] * stages
    assert all(part.trained == part.parameters for part in parts if part.name.startswith(("neck", "decoder")))


def test_without_torch_inspect_says_what_is_missing(untrained, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "captionkit.models.summary")
    monkeypatch.setitem(sys.modules, "torch", None)  # as Python has it for what cannot be found
    cli.main(["inspect", str(untrained)])
    out, err = capsys.readouterr()
    assert out.startswith("model ") and "encoder.0" not in out
    assert err.count("\n") == 1 and "torch is not installed; `pip install 'captionkit[train]'` adds" in err


def test_damaged_weights_are_told_and_the_rest_is_printed(untrained, tmp_path, capsys):
    folder = Path(shutil.copytree(untrained, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert cli.main(["inspect", str(folder), "--json"]) == 1
    out, err = capsys.readouterr()
    assert "summary" not in json.loads(out) and any("has 10 bytes" in p for p in json.loads(out)["problems"])
    assert err.startswith("captionkit: its parts cannot be listed: ") and err.count("\n") == 1
