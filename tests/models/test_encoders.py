"""Our own encoders: TensorFlow's padding, the published weights, grids, and what stays frozen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from captionkit.data.images import preprocess
from captionkit.errors import ModelError
from captionkit.models.encoder import Encoder, EncoderConfig
from captionkit.models.encoder_registry import build_encoder
from captionkit.models.mobilenet import SameConv
from captionkit.viz.samples import sample_photos
from tiers import slow

WEIGHTS = {
    "mobilenet-edgetpu": "weights/mobilenet_edgetpu_1.0_224.fp16.safetensors",
    "mobilenet-v2": "weights/mobilenet_v2_1.0_224_tf2ptq.fp16.safetensors",
    "efficientnet-lite2": "weights/efficientnet_lite2.fp16.safetensors",
}
PARAMETERS = {"mobilenet-edgetpu": 2.79, "mobilenet-v2": 2.21, "efficientnet-lite2": 4.81}  # millions, as published
# of the ImageNet classifier: the name of its tensors, and how many rows stand before the first class
CLASSIFIER = {
    "mobilenet-edgetpu": ("classifier", 1),
    "mobilenet-v2": ("classifier", 1),
    "efficientnet-lite2": ("_fc", 0),
}
every = pytest.mark.parametrize("name", ["mobilenet-v2", *slow("mobilenet-edgetpu", "efficientnet-lite2")])
# ImageNet classes: Egyptian cat; espresso; tripod; moped or motor scooter
CLASSES = {"chelsea.png": {285}, "coffee.png": {967}, "camera.png": {872}, "motorcycle_left.png": {665, 670}}


def fresh(name: str = "mobilenet-v2", *, batch_norm: bool = True) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name, batch_norm=batch_norm))


def same_convolution(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """A convolution [H,W] with SAME padding as TensorFlow's guide words it: by what the stride leaves of the size."""
    k = len(kernel)
    out = np.zeros([-(-size // stride) for size in x.shape])
    before = [max(k - (size % stride or stride), 0) // 2 for size in x.shape]
    for i, j, u, v in itertools.product(*map(range, out.shape), range(k), range(k)):
        row, column = i * stride - before[0] + u, j * stride - before[1] + v
        if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
            out[i, j] += kernel[u, v] * x[row, column]
    return out


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 7), (5, 12), (1, 2)])
def test_padding_is_tensorflows(kernel, stride, size):
    layer = SameConv(1, 1, kernel, stride, act=None).double()
    random = np.random.default_rng(0)
    x, weight = random.normal(size=size), random.normal(size=(kernel, kernel))
    with torch.no_grad():
        layer.conv.weight[:] = torch.from_numpy(weight)
        layer.conv.bias.zero_()
        out = layer(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(out, same_convolution(x, weight, stride), atol=1e-12)


@every
def test_published_weights_know_real_photos(name, shared):
    pytest.importorskip("skimage", reason="the extra `demo` is not installed")
    encoder = fresh(name, batch_norm=False).eval()
    encoder.load_published(shared / WEIGHTS[name])
    stored = load_file(shared / WEIGHTS[name])
    head, background = CLASSIFIER[name]
    weight, bias = (stored[f"{head}.{part}"].float() for part in ("weight", "bias"))
    photos = {file: photo for file, photo in sample_photos() if file in CLASSES}
    assert len(photos) >= 3
    images = np.stack([preprocess(photo, encoder.preprocessing()) for photo in photos.values()])
    with torch.inference_mode():
        pooled = encoder(torch.from_numpy(images)).mean(1)  # [B,G,D] -> [B,D]
    classes = nn.functional.linear(pooled, weight.flatten(1), bias.flatten()).argmax(-1) - background
    wrong = {file: found for file, found in zip(photos, classes.tolist(), strict=True) if found not in CLASSES[file]}
    assert not wrong


@every
def test_size_is_as_published(name):
    count = sum(parameter.numel() for parameter in fresh(name, batch_norm=False).parameters()) / 1e6
    assert count == pytest.approx(PARAMETERS[name], abs=0.006)


@every
@pytest.mark.parametrize("size", [(224, 224), (64, 96), (33, 65), (1, 31)])
def test_grid_is_that_of_the_output(name, size):
    encoder = fresh(name).eval()
    rows, columns = encoder.grid(*size)
    with torch.inference_mode():
        assert encoder(torch.zeros(2, 3, *size)).shape == (2, rows * columns, encoder.dim)


@every
def test_cells_are_in_row_major_order(name):
    encoder = fresh(name).eval()
    image = torch.zeros(1, 3, 96, 160)
    changed = image.clone()
    # Padded at the right and bottom alone, cell i is centred on pixel 32 i + 31.
    changed[:, :, 63 - 8 : 63 + 8, 127 - 8 : 127 + 8] = 1
    with torch.inference_mode():
        difference = (encoder(changed) - encoder(image)).norm(dim=-1)[0]
    rows, columns = encoder.grid(96, 160)
    assert (rows, columns) == (3, 5)
    assert divmod(int(difference.argmax()), columns) == (1, 3)


def test_wrong_weights_are_refused_in_one_line(tmp_path, shared):
    encoder = fresh("mobilenet-edgetpu", batch_norm=False)
    published = load_file(shared / WEIGHTS["mobilenet-edgetpu"])
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    damaged, lacking, misshapen = (tmp_path / f"{name}.safetensors" for name in ("damaged", "lacking", "misshapen"))
    damaged.write_bytes((shared / WEIGHTS["mobilenet-edgetpu"]).read_bytes()[:-100])
    save_file({key: tensor for key, tensor in published.items() if key != "features.3.project.bias"}, lacking)
    save_file({**published, "features.0.weight": torch.zeros(32, 3, 5, 5)}, misshapen)
    for path, reason in {
        tmp_path / "absent.safetensors": "no such file",
        tmp_path: "is a folder where a file is wanted",
        damaged: "not a safetensors file",
        lacking: "features.3.project.conv.bias does not fit",
        misshapen: "features.0.conv.weight does not fit",
        shared / WEIGHTS["mobilenet-v2"]: "does not fit",
    }.items():
        with pytest.raises(ModelError) as caught:
            encoder.load_published(path)
        assert str(caught.value).startswith(f"{path}: ") and reason in str(caught.value)
        assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def test_unknown_names_get_the_nearest():
    with pytest.raises(ModelError, match="'mobilenet-edgtpu' is unknown; did you mean 'mobilenet-edgetpu'"):
        build_encoder(EncoderConfig("mobilenet-edgtpu"))
    known = "efficientnet-lite2, mobilenet-edgetpu, (mobilenet-tiny, )?mobilenet-v2"  # one of them is of other tests
    with pytest.raises(ModelError, match=f"'xyz' is unknown; use {known} or a transformers"):
        build_encoder(EncoderConfig("xyz"))
    with pytest.raises(ModelError, match="'transformers' is unknown"):
        build_encoder(EncoderConfig("transformers"))


def training_step(encoder: Encoder) -> set[str]:
    """Names of the weights and statistics that a step of training changes."""
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.train()
    features = encoder(torch.randn(4, 3, 64, 64))
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    if trained:
        optimizer = torch.optim.SGD(trained, lr=0.1)
        (features * torch.randn_like(features)).sum().backward()
        optimizer.step()
    return {name for name, tensor in encoder.state_dict().items() if not torch.equal(before[name], tensor)}


@every
@pytest.mark.parametrize("stage", [None, 0, 3, -1, -4])
def test_only_what_is_trained_changes(name, stage):
    encoder = fresh(name)
    encoder.train_from(stage)
    count = len(encoder.stages)
    first = count if stage is None else stage % count
    expected = {f"features.{number}." for number in range(first, count)}
    assert encoder.frozen == (stage is None)
    for key, parameter in encoder.named_parameters():
        assert parameter.requires_grad == key.startswith(tuple(expected))
    changed = training_step(encoder)
    assert {key[: key.index(".", 9) + 1] for key in changed} == expected
    for statistic in ("norm.running_mean", "norm.weight", "conv.weight") if expected else ():
        assert any(key.endswith(statistic) for key in changed)


@every
@pytest.mark.parametrize("stage", [3, -1, -7])
def test_what_frozen_stages_compute_may_be_kept(name, stage):
    encoder = fresh(name)
    assert not encoder.cacheable  # trained whole
    encoder.train_from(stage)
    assert encoder.cacheable
    encoder.eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        kept = encoder.encode_frozen(images)  # [B,H,W,C]
        torch.testing.assert_close(encoder.encode_trained(kept), encoder(images), rtol=0, atol=0)
    state, first = encoder.frozen_state(), stage % len(encoder.stages)
    frozen = torch.nn.Module()
    frozen.features = nn.ModuleList(encoder.stages[:first])
    assert set(state) == set(frozen.state_dict())


def test_what_a_frozen_encoder_computes_is_its_grid():
    encoder = fresh().eval()
    encoder.train_from(None)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(encoder.encode_frozen(images), encoder(images))
    assert set(encoder.frozen_state()) == set(encoder.state_dict())


def test_frozen_stages_stay_in_evaluation_mode_however_they_are_asked():
    encoder = fresh()
    encoder.train_from(5)
    parent = nn.Sequential(encoder).train()
    modes = [stage.training for stage in encoder.stages]
    assert modes == [False] * 5 + [True] * (len(modes) - 5)
    parent.eval()
    assert not any(module.training for module in encoder.modules())
    parent.train()
    assert [stage.training for stage in encoder.stages] == modes
    encoder.train_from(None)
    assert not any(stage.training for stage in encoder.stages)
    encoder.train_from(0)
    assert all(module.training for module in encoder.modules())


def test_a_fresh_encoder_is_trained_whole():
    encoder = fresh()
    assert not encoder.frozen and encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_stages_that_do_not_exist_are_refused():
    encoder = fresh()
    for stage in (len(encoder.stages), -len(encoder.stages) - 1):
        with pytest.raises(ModelError, match=f"has 19 stages; it cannot be trained from stage {stage}"):
            encoder.train_from(stage)


def test_a_strided_depthwise_convolution_learns_in_32_bits_on_processors():
    layer = SameConv(6, 6, 3, stride=2, groups=6, act=None)
    x = torch.rand(2, 6, 9, 9).bfloat16()
    wanted = torch.autograd.grad(layer(x.float()).sum(), [*layer.parameters()])
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(layer(x).sum(), [*layer.parameters()])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_batch_norm_keeps_the_signal_of_random_weights():
    """Without it, the signal of a random network of this depth has nearly vanished at the output."""
    images = torch.randn(4, 3, 64, 64)
    normed, plain = (fresh(batch_norm=norm).train()(images).std().item() for norm in (True, False))
    assert normed > 10 * plain


def test_frozen_norms_keep_their_statistics_and_learn_their_scale():
    images, encoder = torch.randn(2, 3, 64, 64), fresh()
    kept = {name: value.clone() for name, value in encoder.named_buffers()}
    assert kept
    encoder.freeze_norms = True
    encoder.train_from(-2)
    encoder.train()
    encoder(images).square().mean().backward()
    for name, value in encoder.named_buffers():
        assert torch.equal(value, kept[name]), name
    scale = encoder.stages[-1].norm.weight
    assert scale.grad is not None and scale.grad.abs().sum() > 0
    encoder.freeze_norms = False
    encoder.train()
    encoder(images)
    moved = {name.split(".")[1] for name, value in encoder.named_buffers() if not torch.equal(value, kept[name])}
    assert moved == {str(len(encoder.stages) - 2), str(len(encoder.stages) - 1)}, "the frozen stages stay as they are"
