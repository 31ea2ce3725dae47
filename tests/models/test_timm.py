"""Encoders of timm: against a small stand-in for it, and against the library where it is."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("transformers", reason="the extra `train` is not installed")

import torch
from torch import Tensor, nn

from captionkit.errors import ModelError, RecipeError
from captionkit.models.encoder import EncoderConfig
from captionkit.models.encoder_registry import build_encoder
from captionkit.models.timm import TimmEncoder, is_timm, load_timm_encoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTH = 8


def layer(inputs: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, WIDTH, 3, stride, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())


class Net(nn.Module):
    """As ResNet: a stem of single layers, stages, a head, and an end at `forward_features`."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = layer(3)
        self.layer1, self.layer2 = (nn.Sequential(layer(WIDTH), layer(WIDTH, 1)) for _ in range(2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTH, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.forward_features(x)).flatten(1))


class Last(Net):
    """Channels last, as timm's Swin."""

    output_fmt = "NHWC"

    def forward_features(self, x: Tensor) -> Tensor:
        return super().forward_features(x).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    def __init__(self, pad: bool) -> None:
        super().__init__()
        self.patch_size, self.pad = (8, 8), pad
        self.proj = nn.Conv2d(3, WIDTH, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.pad:
            x = nn.functional.pad(x, (0, -x.shape[3] % 8, 0, -x.shape[2] % 8))
        assert x.shape[2] % 8 == x.shape[3] % 8 == 0, "Input height should be divisible by patch size"
        return self.proj(x)


class Timm(nn.Module):
    """As timm's VisionTransformer, with its `patch_embed`, `num_prefix_tokens`, two options for sizes, an idle pool."""

    num_prefix_tokens = 2

    def __init__(self, num_classes: int = 10, dynamic_img_size: bool = False, dynamic_img_pad: bool = False) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dynamic_img_pad)
        self.cls_token = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 16, WIDTH))
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.5, batch_first=True) for _ in "123"))
        self.norm = nn.LayerNorm(WIDTH)
        self.attn_pool = nn.Linear(WIDTH, WIDTH)
        self.dynamic = dynamic_img_size

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        rows, columns = x.shape[2:]
        assert self.dynamic or (rows, columns) == (4, 4), "Input height doesn't match model (32)."
        table = self.pos_embed.transpose(1, 2).unflatten(2, (4, 4))
        table = nn.functional.interpolate(table, (rows, columns), mode="bicubic").flatten(2).transpose(1, 2)
        tokens = [self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2) + table]
        return self.norm(self.blocks(torch.cat(tokens, 1)))


class Mixer(Timm):
    """A family that takes no options, and one size."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)


class Vector(Net):
    def forward_features(self, x: Tensor) -> Tensor:
        return super().forward_features(x).mean((2, 3))


TIMM = {"net": Net, "last": Last, "vit": Timm, "mixer": Mixer, "vector": Vector, "unpublished": Net}
SIZES = {"vit": 32, "mixer": 32}


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for timm, which keeps what it was asked to make."""
    made = []

    def create_model(model_name, pretrained=False, pretrained_cfg_overlay=None, **kwargs):
        made.append((model_name, pretrained, pretrained_cfg_overlay))
        model = TIMM[model_name.partition(".")[0]](**kwargs)
        model.name = model_name.partition(".")[0]
        return model

    def resolve_model_data_config(model):
        side = SIZES.get(model.name, 64)
        usual = {"input_size": (3, side, side + 8 * (model.name == "last")), "interpolation": "bilinear"}
        return {**usual, "mean": MEAN, "std": STD, "crop_pct": 0.875, "crop_mode": "squash"}

    module, data = ModuleType("timm"), ModuleType("timm.data")
    module.create_model, module.data, data.resolve_model_data_config = create_model, data, resolve_model_data_config
    module.is_model = lambda name: name.partition(".")[0] in TIMM
    module.list_models = lambda: sorted(TIMM)
    hub = {name: SimpleNamespace(hf_hub_id=f"timm/{name}" if name != "unpublished" else None) for name in TIMM}
    module.get_pretrained_cfg = lambda name: hub.get(name.partition(".")[0])
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    module.made = made
    return module


def load(name: str, **options) -> TimmEncoder:
    torch.manual_seed(0)
    encoder, _ = load_timm_encoder(EncoderConfig(name), **{"pretrained": False, **options})
    return encoder.eval()


def refused(name: str, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"encoder {name!r}")
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "grids"),
    [
        ("timm:net", {(64, 64): (8, 8), (40, 72): (5, 9), (33, 70): (5, 9)}),
        ("timm:last", {(64, 72): (8, 9), (40, 72): (5, 9)}),
        ("timm:vit", {(32, 32): (4, 4), (40, 72): (5, 9), (33, 70): (5, 9)}),
        ("timm:mixer", {(32, 32): (4, 4)}),
    ],
)
def test_grid_is_that_of_the_output(name, grids, timm):
    encoder = load(name)
    for size, grid in grids.items():
        assert encoder.grid(*size) == grid
        with torch.inference_mode():
            out = encoder(torch.randn(2, 3, *size))
        assert out.shape == (2, grid[0] * grid[1], WIDTH) and out.isfinite().all()


@pytest.mark.parametrize("name", ["timm:net", "timm:last", "timm:vit"])
def test_cells_are_in_row_major_order_and_none_is_a_prefix(name, timm):
    encoder = load(name)
    image = torch.randn(1, 3, 80, 112) / 4
    changed = image.clone()
    changed[:, :, 48:56, 24:32] += 3
    with torch.inference_mode():
        difference = (encoder(changed) - encoder(image)).norm(dim=-1)[0]
    rows, columns = encoder.grid(80, 112)
    if "vit" in name:
        assert divmod(int(difference.argmax()), columns) == (6, 3)
        return
    # Convolutions see their neighbours; cell i is centred on pixel 8 i, so the middle of the change is at 6.5 and 3.5.
    share = (difference**2 / (difference**2).sum()).unflatten(0, (rows, columns))
    found = [float(share.sum(1 - side) @ torch.arange(share.shape[side]).float()) for side in (0, 1)]
    assert found == pytest.approx([6.5, 3.5], abs=1.2)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("timm:vit", {"height": 32, "width": 32, "fit": "squash", "interpolation": "bilinear"}),
        ("timm:last", {"height": 64, "width": 72}),
    ],
)
def test_preprocessing_is_the_librarys_and_is_kept(name, fields, timm):
    encoder, config = load_timm_encoder(EncoderConfig(name), pretrained=False)
    found = encoder.preprocessing().to_dict()
    assert found.items() >= {**fields, "mean": MEAN, "std": STD}.items()
    stored = json.loads(json.dumps(asdict(config)))
    assert EncoderConfig(**stored) == config
    stored["preprocessing"]["mean"] = [0.1, 0.2, 0.3]  # what is stored counts, whatever the library says by then
    rebuilt = build_encoder(EncoderConfig(**stored))
    assert rebuilt.preprocessing().mean == (0.1, 0.2, 0.3)
    rebuilt.load_state_dict(encoder.state_dict())
    encoder.eval(), rebuilt.eval()
    images = torch.randn(1, 3, found["height"], found["width"])
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(images), encoder(images))


@pytest.mark.parametrize(
    ("name", "stages", "unstaged"),
    [
        ("timm:net", [["model.conv1", "model.bn1"], ["model.layer1"], ["model.layer2"]], set()),
        (
            "timm:vit",
            [["model.patch_embed"], ["model.blocks.0"], ["model.blocks.1"], ["model.blocks.2", "model.norm"]],
            {"model.cls_token", "model.pos_embed"},
        ),
    ],
)
def test_stages_and_what_is_trained(name, stages, unstaged, timm):
    encoder = load(name)
    names = {id(module): key for key, module in encoder.network.named_modules()}
    parts = [part if isinstance(part, nn.ModuleList) else [part] for part in encoder.stages]
    assert [[names[id(module)] for module in part] for part in parts] == stages
    staged = {id(p) for part in encoder.stages for p in part.parameters()}
    rest = {key for key, p in encoder.network.named_parameters() if id(p) not in staged}
    assert rest - encoder.unused_parameters == unstaged
    encoder.train()
    side = encoder.preprocessing().height
    encoder(torch.randn(2, 3, side, encoder.preprocessing().width)).square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in encoder.parameters())
    encoder.train_from(-1)
    last = {id(p) for p in encoder.stages[-1].parameters()}
    assert all(p.requires_grad == (id(p) in last) for p in encoder.parameters())
    before = [module.training for module in encoder.modules()]
    encoder.grid(48, 48)
    assert [module.training for module in encoder.modules()] == before, "to ask for a grid changes nothing"


def test_timm_is_asked_for_safetensors_alone(timm):
    load("timm:vit.tag", pretrained=True)
    load("timm:net", pretrained=True)
    assert len(timm.made) >= 2 and all(
        (pretrained, overlay) == (True, {"hf_hub_filename": "model.safetensors"})
        for _, pretrained, overlay in timm.made
    )
    assert "has no weights for it on the Hub" in refused("timm:unpublished", pretrained=True)
    assert load("timm:unpublished").dim == WIDTH


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm:vitt", "timm has no model of this name; did you mean 'timm:vit'?"),
        ("timm:hf-hub:someone/something", "timm has no model of this name"),
        ("timm:", "timm has no model of this name"),
        ("timm:vector", "makes no grid of an image of 64 x 64 pixels, but [8]"),
    ],
)
def test_what_is_no_encoder_is_refused(name, reason, timm):
    assert reason in refused(name)


def test_sizes_that_a_family_does_not_take_are_refused(timm):
    with pytest.raises(
        ModelError, match=r"'timm:mixer' takes no images of 64 x 64 pixels \(Input height doesn't match"
    ):
        load("timm:mixer").grid(64, 64)


def test_preprocessing_that_cannot_be_followed_is_refused(timm):
    usual = timm.data.resolve_model_data_config
    timm.data.resolve_model_data_config = lambda model: {**usual(model), "mean": (0.5,)}
    assert "preprocessing is not understood (preprocessing: mean must be" in refused("timm:net")


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)


def test_timm_that_is_not_there_is_named(monkeypatch):
    forget(monkeypatch)
    monkeypatch.setitem(sys.modules, "timm", None)  # as Python has it for what cannot be found
    assert "timm is not installed; run `pip install 'captionkit[timm]'`" in refused("timm:resnet18")
    with pytest.raises(ModelError, match="is not installed"):
        build_encoder(EncoderConfig("timm:resnet18"))


def test_a_torchvision_built_for_another_torch_is_named(monkeypatch, tmp_path):
    forget(monkeypatch)
    for name, code in {
        "torchvision": "raise RuntimeError('operator torchvision::nms does not exist')",
        "timm": "import torchvision",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    message = refused("timm:resnet18")
    assert "timm cannot be imported (operator torchvision::nms does not exist)" in message
    assert f"with a torchvision that fits torch {torch.__version__}" in message


def test_names_of_other_libraries():
    assert is_timm("timm:resnet18")
    assert not any(map(is_timm, ("timm", "timm/resnet18", "mobilenet-v2", "transformers:vit", "")))
    with pytest.raises(ModelError, match=r"models of torchvision are gone; use 'timm:resnet18'"):
        build_encoder(EncoderConfig("torchvision:resnet18"))
    for name in ("timm", "torchvision", "transformers:vit"):
        with pytest.raises(ModelError, match="is unknown"):
            build_encoder(EncoderConfig(name))


def test_a_recipe_trains_on_one(timm):
    from captionkit.training.config.recipe import load_recipe
    from captionkit.training.run_setup import _encoder

    with pytest.raises(
        ModelError, match=r"'torchvision:vit_b_16': models of torchvision are gone; use 'timm:vit_b_16'"
    ):
        _encoder(load_recipe(None, {"encoder.name": "torchvision:vit_b_16"}))

    recipe = load_recipe(None, {"encoder.name": "timm:vit", "encoder.pretrained": "false", "encoder.train": "all"})
    encoder, config = _encoder(recipe)
    assert isinstance(encoder, TimmEncoder) and config.preprocessing["height"] == 32 and not timm.made[-1][1]
    frozen = load_recipe(None, {"encoder.name": "timm:vit", "encoder.pretrained": "false"})
    with pytest.raises(RecipeError, match=r"encoder\.pretrained is false, so the encoder is random"):
        _encoder(frozen)
    weights = load_recipe(None, {"encoder.name": "timm:vit", "encoder.weights": "mine.safetensors"})
    with pytest.raises(RecipeError, match="brings its own"):
        _encoder(weights)


REAL = {
    "timm:resnet18": (512, 5, (3, 5)),
    "timm:efficientnet_b0": (1280, 8, (3, 5)),
    "timm:vit_tiny_patch16_224": (192, 13, (6, 10)),
    "timm:swin_tiny_patch4_window7_224": (768, 5, (3, 5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_library_itself(name):
    try:
        import timm  # noqa: F401
    except Exception as error:  # torchvision fails in many ways where it was built for another torch
        pytest.skip(f"timm cannot be imported ({type(error).__name__})")
    encoder = load(name)
    dim, stages, grid = REAL[name]
    assert (encoder.dim, len(encoder.stages), encoder.grid(96, 160)) == (dim, stages, grid)
    assert encoder.preprocessing().mean == pytest.approx(MEAN if "vit_tiny" not in name else (0.5, 0.5, 0.5))
    for size in ((224, 224), (96, 160)):
        rows, columns = encoder.grid(*size)
        with torch.inference_mode():
            out = encoder(torch.randn(1, 3, *size))
        assert out.shape == (1, rows * columns, dim) and out.isfinite().all()
