"""Confidence by torch's stepper is that of the graphs'."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

from captionkit.inference.model_folder import open_model
from captionkit.inference.onnx_runtime import OnnxStepper
from captionkit.models.serialization import load_model
from captionkit.models.torch_stepper import TorchStepper


def test_both_steppers_give_the_same_overview() -> None:
    folder = open_model()
    size = folder.preprocessing.height, folder.preprocessing.width
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, *size)).astype(np.float32)
    torch, onnx = TorchStepper(load_model(folder)), OnnxStepper(folder)
    ours, theirs = (stepper.overview(stepper.begin(images)) for stepper in (torch, onnx))
    assert ours.means.shape == theirs.means.shape and len(ours.means) == 2
    assert np.corrcoef(ours.means.ravel(), theirs.means.ravel())[0, 1] > 0.95  # the graphs compute in 8 bits
    assert (ours.evidence is None) == (theirs.evidence is None)
