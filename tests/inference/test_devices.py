"""Which device a model runs on, for lists of ONNX Runtime's providers as other machines have them."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import captionkit
from captionkit.errors import CaptionkitError
from captionkit.inference.bound_stepper import BoundStepper
from captionkit.inference.caption_confidence import decoding_features
from captionkit.inference.captioner import Captioner
from captionkit.inference.devices import choose_device, providers_of
from captionkit.inference.model_folder import open_model
from captionkit.viz.samples import sample_photos

HERE = ["AzureExecutionProvider", "CPUExecutionProvider"]
NVIDIA = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
MAC = ["CoreMLExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("device", "available", "chosen"),
    [
        ("cpu", NVIDIA, "cpu"),
        ("cuda", NVIDIA, "cuda"),
        ("auto", NVIDIA, "cuda"),
        ("auto", MAC, "coreml"),
        ("auto", ["DmlExecutionProvider", "CPUExecutionProvider"], "directml"),
        ("openvino", ["OpenVINOExecutionProvider", "CPUExecutionProvider"], "openvino"),
    ],
)
def test_device(device: str, available: list[str], chosen: str) -> None:
    assert choose_device(device, available) == chosen


def test_auto_falls_back_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "captionkit"):
        assert choose_device("auto", HERE) == "cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "no accelerator that ONNX Runtime can use here; running on the CPU"
    ]


def test_absent_and_unknown_devices_name_those_here() -> None:
    with pytest.raises(CaptionkitError, match=r"device cuda is not here; .*: cpu, or install onnxruntime-gpu"):
        choose_device("cuda", HERE)
    with pytest.raises(CaptionkitError, match=r"device 'tpu' is unknown; use auto or one of those here: cuda, cpu$"):
        choose_device("tpu", NVIDIA)
    with pytest.raises(CaptionkitError, match="device 'tpu' is unknown"):
        captionkit.load(device="tpu")


def test_the_cpu_takes_what_the_device_cannot_do() -> None:
    assert providers_of("cuda") == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers_of("cpu") == ["CPUExecutionProvider"]


def test_states_that_stay_on_the_device_give_the_same_captions() -> None:
    photos = [photo for _, photo in sample_photos()]
    usual, folder = captionkit.load(threads=1), open_model()
    bound = Captioner(folder, BoundStepper(folder, threads=1, device="cpu"))
    for one, other in zip(usual.caption(photos), bound.caption(photos), strict=True):
        assert one.to_dict() == other.to_dict()
        np.testing.assert_array_equal(one.attention, other.attention)
    assert usual.caption(photos[0], num_beams=1).text == bound.caption(photos[0], num_beams=1).text


def test_confidence_has_features_of_models_without_maps() -> None:
    log_probs = np.log([0.5, 0.25])
    found = decoding_features(log_probs, -3.0, np.empty((2, 0), np.float32), np.zeros(2))
    assert np.isfinite(found).all()
    assert found[0] == pytest.approx(log_probs.mean())
