"""transformers backbones behind the Encoder contract: small random ones, saved and loaded as downloaded ones are."""

from __future__ import annotations

import json
import os
import shutil
import socket
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="the extra `train` is not installed")

import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from captionkit.errors import ModelError
from captionkit.models.encoder import EncoderConfig
from captionkit.models.encoder_registry import build_encoder
from captionkit.models.huggingface import HuggingFaceEncoder, load_huggingface_encoder
from tiers import slow

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
VIT = {**SMALL, "image_size": 32, "patch_size": 8}
PYRAMID = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


def configs() -> dict[str, hf.PreTrainedConfig]:
    clip, siglip = hf.CLIPVisionConfig(**VIT), hf.SiglipVisionConfig(**VIT)
    letters = {**SMALL, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}
    return {
        "resnet": hf.ResNetConfig(embedding_size=8, layer_type="basic", **PYRAMID),
        "regnet": hf.RegNetConfig(embedding_size=8, groups_width=8, **PYRAMID),
        "efficientnet": hf.EfficientNetConfig(
            image_size=64, width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320, initializer_range=0.4
        ),
        "convnext": hf.ConvNextConfig(image_size=64, **PYRAMID),
        "swin": hf.SwinConfig(
            image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 2, 4], window_size=4
        ),
        "vit": hf.ViTConfig(hidden_dropout_prob=0.5, **VIT),
        "deit": hf.DeiTConfig(**VIT),
        "clip": hf.CLIPConfig(text_config=letters, vision_config=clip.to_dict()),
        "clip-vision": clip,
        "siglip": hf.SiglipConfig(text_config=letters, vision_config=siglip.to_dict()),
        "siglip-vision": siglip,
        "dinov2": hf.Dinov2Config(**VIT),
        "dinov2-registers": hf.Dinov2WithRegistersConfig(**VIT),
        "beit": hf.BeitConfig(use_relative_position_bias=True, **VIT),
        "dinov3": hf.DINOv3ViTConfig(num_register_tokens=3, **VIT),
    }


# the trained size and what an image of 96 x 160 becomes, by the published strides and patch sizes
GRIDS = dict.fromkeys(configs(), ((32, 32), (12, 20))) | {
    "resnet": ((224, 224), (3, 5)),
    "regnet": ((224, 224), (3, 5)),
    "efficientnet": ((64, 64), (3, 5)),
    "convnext": ((64, 64), (3, 5)),
    "swin": ((64, 64), (6, 10)),
}
# what 69 x 107 pixels become: halves rounded up by padding, or down, five times; or as many whole patches, or parts
ODD = dict.fromkeys(configs(), (8, 13)) | {
    "resnet": (3, 4),
    "regnet": (3, 4),
    "efficientnet": (2, 3),
    "convnext": (2, 3),
    "swin": (5, 7),
}
QUICK = ("resnet", "vit")
every = pytest.mark.parametrize("family", [*QUICK, *slow(*(name for name in GRIDS if name not in QUICK))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """Family -> a folder with its weights; not to be changed."""
    root = tmp_path_factory.mktemp("backbones")

    @cache
    def save(family: str) -> Path:
        torch.manual_seed(0)
        network = hf.AutoModel.from_config(configs()[family])
        for name, parameter in network.named_parameters():
            if "relative_position_bias_table" in name:  # zeros, before training
                torch.nn.init.normal_(parameter, std=0.5)
        if family == "efficientnet":  # its statistics, as training would leave them: else the signal vanishes
            network.train()
            for _ in range(20):
                network(torch.randn(8, 3, 64, 64))
        network.save_pretrained(root / family)
        return root / family

    return save


@pytest.fixture
def own_folder(folder, tmp_path):
    """A ViT's folder that the test may change."""
    return Path(shutil.copytree(folder("vit"), tmp_path / "mine"))


def load(path: Path, **options) -> tuple[HuggingFaceEncoder, EncoderConfig]:
    return load_huggingface_encoder(EncoderConfig(str(path)), **options)


def refused(path: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        load_huggingface_encoder(EncoderConfig(str(path)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@every
def test_grid_is_that_of_the_output(family, folder):
    encoder, _ = load(folder(family))
    encoder.eval()
    trained, large = GRIDS[family]
    assert encoder.grid(96, 160) == large
    for size in (trained, (96, 160), (69, 107), (136, 72)):
        rows, columns = encoder.grid(*size)
        with torch.inference_mode():
            assert encoder(torch.randn(2, 3, *size)).shape == (2, rows * columns, encoder.dim)


@every
def test_sizes_that_are_not_the_trained_one(family, folder):
    """Positions are interpolated where there are any; at the trained size all is as the network itself has it."""
    encoder, _ = load(folder(family))
    encoder.eval()
    trained = GRIDS[family][0]
    twice = tuple(2 * side for side in trained)
    assert encoder.grid(69, 107) == ODD[family]
    assert encoder.grid(*twice) == tuple(2 * side for side in encoder.grid(*trained))
    for size in (trained, (69, 107), twice, trained):
        images = torch.randn(2, 3, *size)
        with torch.inference_mode():
            out, again = encoder(images), encoder(images)
            raw = encoder.network(pixel_values=images).last_hidden_state if size == trained else None
        assert out.isfinite().all() and torch.equal(out, again)
        if raw is not None:
            cells = raw.flatten(2).transpose(1, 2) if raw.ndim == 4 else raw[:, -out.shape[1] :]
            assert torch.equal(out, cells)


POSITIONS = ("vit", "deit", "clip", "siglip", "dinov2", "dinov2-registers")


@pytest.mark.parametrize("family", [POSITIONS[0], *slow(*POSITIONS[1:])])
def test_interpolated_positions_keep_their_places(family, folder):
    """A slope over the rows of the trained grid is a slope over the rows of any other."""
    encoder, _ = load(folder(family))
    encoder.eval()
    table = next(p for name, p in encoder.network.named_parameters() if "position_embedding" in name and p.ndim > 1)
    rows = torch.arange(4).repeat_interleave(4) / 3  # [16], row by row
    torch.nn.init.zeros_(table.data)
    table.data.view(-1, table.shape[-1])[-16:] = rows.unsqueeze(1)  # [16] -> [16,1]
    seen = []
    first = next(module for module in encoder.network.modules() if type(module).__name__.endswith("Embeddings"))
    first.register_forward_hook(lambda module, given, out: seen.append(out))
    rows, columns = encoder.grid(40, 72)
    with torch.inference_mode():
        encoder(torch.zeros(1, 3, 40, 72))
    cells = (seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0])[0, -rows * columns :]
    cells = (cells - cells[0]).mean(1).unflatten(0, (rows, columns))
    assert torch.allclose(cells, cells[:, :1].expand(rows, columns), atol=1e-5), "the same along a row"
    assert (cells[1:, 0] > cells[:-1, 0]).all(), "rising from row to row"
    assert float(cells[-1, 0]) == pytest.approx(1, abs=0.15)


@every
def test_cells_are_in_row_major_order_and_none_is_a_prefix(family, folder):
    encoder, _ = load(folder(family))
    encoder.eval()
    torch.manual_seed(0)
    image = torch.randn(1, 3, 128, 256) / 4
    rows, columns = encoder.grid(128, 256)
    high, wide = 128 // rows, 256 // columns
    for row, column in ((1, 1), (rows // 2, columns // 4), (rows - 2, columns - 2)):
        changed = image.clone()
        changed[:, :, row * high : (row + 1) * high, column * wide : (column + 1) * wide] += 2
        with torch.inference_mode():
            difference = (encoder(changed) - encoder(image)).norm(dim=-1)[0]
        found = divmod(int(difference.argmax()), columns)
        blur = 1 if family in ("efficientnet", "regnet") else 0  # they see far: 4 x 8 cells are few for their kernels
        assert found == (pytest.approx(row, abs=blur), pytest.approx(column, abs=blur))


@every
def test_rebuilt_offline_from_stored_config(family, folder, monkeypatch):
    encoder, config = load(folder(family))
    stored = json.dumps(asdict(config))
    assert str(folder(family)) not in stored and config.name == family
    monkeypatch.setattr(socket, "socket", None)
    restored = EncoderConfig(**json.loads(stored))
    assert restored == config
    rebuilt = build_encoder(restored)
    assert list(rebuilt.state_dict()) == list(encoder.state_dict())
    rebuilt.load_state_dict(encoder.state_dict())
    assert rebuilt.preprocessing() == encoder.preprocessing()
    encoder.eval(), rebuilt.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(images), encoder(images))


@every
def test_stages_hold_all_that_is_trained(family, folder):
    encoder, _ = load(folder(family))
    stages = encoder.stages
    assert len(stages) >= 4
    staged = [id(p) for stage in stages for p in stage.parameters()]
    assert len(staged) == len(set(staged))
    trained = {id(p) for p in encoder.parameters() if p.requires_grad}
    assert trained <= set(staged)
    encoder.train()
    encoder(torch.randn(2, 3, 64, 64)).square().sum().backward()
    # Heads that pool the grid, and tokens for masks, have no part in it; else processes wait for their gradients.
    assert all((p.grad is not None) == p.requires_grad for p in encoder.parameters())


@every
def test_stages_are_in_the_order_in_which_a_picture_passes_them(family, folder):
    encoder, _ = load(folder(family))
    calls = []
    for number, stage in enumerate(encoder.stages):
        parts = stage if isinstance(stage, torch.nn.ModuleList) else [stage]
        for part in parts:
            part.register_forward_hook(lambda *_, number=number: calls.append(number))
    with torch.inference_mode():
        encoder(torch.randn(1, 3, 64, 64))
    assert calls == sorted(calls) and set(calls) == set(range(len(encoder.stages)))


@pytest.mark.parametrize("family", ["vit", *slow("resnet", "siglip")])
@pytest.mark.parametrize("stage", [None, 0, -1, 2])
def test_only_what_is_trained_changes(family, stage, folder):
    encoder, _ = load(folder(family))
    encoder.train_from(stage)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    parent = torch.nn.Sequential(encoder).train()
    features = parent(torch.randn(4, 3, 64, 64))
    trained = [p for p in encoder.parameters() if p.requires_grad]
    assert bool(trained) == (stage is not None) == (not encoder.frozen)
    if trained:
        (features * torch.randn_like(features)).sum().backward()
        torch.optim.SGD(trained, lr=0.1).step()
    stages = encoder.stages[stage:] if stage is not None else []
    live = {id(t) for module in stages for t in module.state_dict(keep_vars=True).values()}
    for name, tensor in encoder.state_dict(keep_vars=True).items():
        assert id(tensor) in live or torch.equal(tensor, before[name]), name
        if name.endswith("running_mean"):
            assert (id(tensor) in live) == (not torch.equal(tensor, before[name]))


def test_dropout_is_off_where_frozen(folder):
    encoder, _ = load(folder("vit"))  # drops half of its units
    images = torch.randn(1, 3, 32, 32)
    for stage, same in ((None, True), (-1, False), (0, False)):
        encoder.train_from(stage)
        encoder.train()
        assert torch.equal(encoder(images), encoder(images)) == same


@pytest.mark.slow
def test_efficientnet_b2_from_scratch(tmp_path):
    """B2 has 7.7 million parameters without its classifier; transformers rounds its maps down: 65, 32, 16, 8."""
    hf.EfficientNetConfig(
        image_size=260, width_coefficient=1.1, depth_coefficient=1.2, hidden_dim=1408
    ).save_pretrained(tmp_path)
    encoder, _ = load(tmp_path, pretrained=False)
    assert (encoder.grid(260, 260), encoder.dim, len(encoder.stages)) == ((8, 8), 1408, 24)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(7.7, abs=0.05)
    preprocessing = encoder.preprocessing()
    assert (preprocessing.height, preprocessing.width) == (260, 260)


def test_from_scratch_ignores_stored_weights(folder):
    torch.manual_seed(1)
    for family in ("vit", "clip"):
        scratch, config = load(folder(family), pretrained=False)
        trained, same = load(folder(family))
        assert config == same
        assert scratch.state_dict().keys() == trained.state_dict().keys()
        differing = [n for n, t in scratch.state_dict().items() if not torch.equal(t, trained.state_dict()[n])]
        assert any("patch_embedding" in name for name in differing)


def test_half_precision_weights_are_widened(folder, tmp_path):
    hf.AutoModel.from_pretrained(folder("vit"), dtype=torch.float16).save_pretrained(tmp_path)
    encoder, config = load(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert {p.dtype for p in build_encoder(config).parameters()} == {torch.float32}


def test_loading_is_quiet_in_a_pipe(folder, capfd):
    load(folder("clip"))
    assert capfd.readouterr() == ("", "")


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("family", "expected"), [("resnet", IMAGENET), ("dinov2", IMAGENET), ("vit", HALF), ("siglip", HALF)]
)
def test_normalisation_of_the_family(family, expected, folder):
    preprocessing = load(folder(family))[0].preprocessing()
    assert (preprocessing.mean, preprocessing.std) == expected
    assert (preprocessing.height, preprocessing.width) == GRIDS[family][0]


def test_clips_own_normalisation(folder):
    for family in ("clip", "clip-vision"):
        assert load(folder(family))[0].preprocessing().mean == (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (
            {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 40, "width": 48}},
            {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "height": 40, "width": 48, "interpolation": "bicubic"},
        ),
        (
            {"size": {"shortest_edge": 56}, "do_center_crop": True, "crop_size": {"height": 48, "width": 48}},
            {"mean": HALF[0], "std": HALF[1], "height": 48, "width": 48},
        ),
        (
            {"size": 64, "crop_size": 48, "do_center_crop": False, "resample": 2},
            {"height": 64, "interpolation": "bilinear"},
        ),
        ({"size": {"shortest_edge": 40}, "resample": 1}, {"height": 40, "width": 40, "interpolation": "lanczos"}),
        ({"do_normalize": False}, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "height": 32}),
        # pixels are taken to 0..2, so that they come out as (x / 255 - 0.25) / 0.5
        (
            {"rescale_factor": 2 / 255, "image_mean": [0.5] * 3, "image_std": [1.0] * 3},
            {"mean": (0.25, 0.25, 0.25), "std": (0.5, 0.5, 0.5)},
        ),
    ],
)
def test_preprocessing_is_the_backbones_own(stored, expected, own_folder):
    (own_folder / "preprocessor_config.json").write_text(json.dumps(stored), encoding="utf-8")
    encoder, config = load(own_folder)
    found = encoder.preprocessing().to_dict()
    assert all(
        found[name] == (value if isinstance(value, str) else pytest.approx(value)) for name, value in expected.items()
    )
    rebuilt = build_encoder(EncoderConfig(**json.loads(json.dumps(asdict(config)))))
    assert rebuilt.preprocessing() == encoder.preprocessing()
    assert encoder.grid(found["height"], found["width"]) == (found["height"] // 8, found["width"] // 8)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ({"do_flip_channel_order": True}, "blue, green, red"),
        ({"image_mean": ["a", "b", "c"]}, "not understood"),
        ({"image_mean": [0.5, 0.5]}, "not understood"),
        ({"rescale_factor": "1/255"}, "not understood"),
        ({"image_mean": [123.0, 117.0, 104.0]}, "mean must be three numbers from 0 to 1"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused(stored, reason, own_folder):
    (own_folder / "preprocessor_config.json").write_text(json.dumps(stored), encoding="utf-8")
    message = refused(own_folder)
    assert message.startswith(f"{own_folder}: ") and reason in message


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_weights_are_never_loaded(own_folder, tmp_path):
    sound = load_file(own_folder / "model.safetensors")
    (own_folder / "model.safetensors").unlink()
    for content in (sound, {"trap": Trap(tmp_path / "sprung")}):
        torch.save(content, own_folder / "pytorch_model.bin")
        assert refused(own_folder).startswith(f"{own_folder}: cannot load this transformers backbone (")
    assert not (tmp_path / "sprung").exists()


def test_code_that_comes_with_a_backbone_is_never_run(own_folder, tmp_path):
    config = json.loads((own_folder / "config.json").read_text())
    (own_folder / "trap.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n")
    config |= {"model_type": "trap", "auto_map": {"AutoConfig": "trap.Config", "AutoModel": "trap.Model"}}
    (own_folder / "config.json").write_text(json.dumps(config))
    refused(own_folder)
    assert not (tmp_path / "sprung").exists()


def test_weights_that_are_not_there_are_named(own_folder):
    weights = load_file(own_folder / "model.safetensors")
    name = next(key for key in weights if "layer.1" in key)
    heads = [key for key in weights if key.startswith("pooler.")]
    assert heads
    kept = {key: tensor for key, tensor in weights.items() if key not in heads}
    save_file(kept, own_folder / "model.safetensors", metadata={"format": "pt"})
    load(own_folder)  # what does not reach the grid may be missing
    del kept[name]
    save_file(kept, own_folder / "model.safetensors", metadata={"format": "pt"})
    assert "has no weights for " in refused(own_folder)


def test_damaged_folders_are_refused(own_folder, tmp_path):
    weights = own_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert refused(own_folder).startswith(f"{own_folder}: cannot load this transformers backbone (")
    (own_folder / "config.json").write_text("{")
    refused(own_folder)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty")
    refused(tmp_path / "no" / "such" / "folder")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (hf.BertConfig(**SMALL), "'bert' takes no images of 224 x 224 pixels"),
        (hf.ViTMAEConfig(**VIT), "'vit_mae' makes no grid of an image of 32 x 32 pixels"),  # it drops most cells
        (hf.Siglip2VisionConfig(num_patches=16, patch_size=8, **SMALL), "takes no images"),
    ],
)
def test_what_yields_no_grid_is_refused(config, reason, tmp_path):
    hf.AutoModel.from_config(config).save_pretrained(tmp_path)
    assert reason in refused(tmp_path)


def test_sizes_that_a_family_does_not_take_are_refused(tmp_path):
    hf.AutoModel.from_config(hf.LevitConfig(image_size=64)).save_pretrained(tmp_path)
    encoder, _ = load(tmp_path)
    assert encoder.grid(64, 64) == (1, 1)
    with pytest.raises(ModelError, match="'levit' takes no images of 64 x 96 pixels") as caught:
        encoder.grid(64, 96)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "backbone",
    [
        {"model_type": "nothing"},
        {"hidden_size": 3},
        {"model_type": "vit", "hidden_size": "wide"},
        {"model_type": "bert", **SMALL},
    ],
)
def test_damaged_stored_configs_are_refused(backbone):
    with pytest.raises(ModelError) as caught:
        build_encoder(EncoderConfig("mine", backbone=backbone))
    assert "\n" not in str(caught.value)
