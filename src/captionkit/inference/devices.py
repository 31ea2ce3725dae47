"""The devices that ONNX Runtime can compute on here."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from captionkit.errors import CaptionkitError

CPU = "cpu"
#: device -> ONNX Runtime's execution provider, in the order in which "auto" tries them
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    CPU: "CPUExecutionProvider",
}
DEVICES = ("auto", *PROVIDERS)
#: device -> the package that brings its provider
_PACKAGES = {"cuda": "onnxruntime-gpu", "directml": "onnxruntime-directml", "openvino": "onnxruntime-openvino"}


def providers_of(device: str, available: Sequence[str]) -> list[str]:
    """Return the execution providers for `device`, of those `available`; the CPU takes what the first cannot do.

    "auto" takes the first accelerator there is, or with a logged line the CPU. Raises CaptionkitError for a device that
    is unknown or absent.
    """
    here = [name for name, provider in PROVIDERS.items() if provider in available]
    if device == "auto":
        device = here[0] if here else CPU
        if device == CPU:
            logging.getLogger("captionkit").warning("no accelerator that ONNX Runtime can use here; running on the CPU")
    if device not in PROVIDERS:
        raise CaptionkitError(f"device {device!r} is unknown; use auto or one of those here: {', '.join(here)}")
    if device not in here:
        package = _PACKAGES.get(device)
        way_out = f", or install {package} in place of onnxruntime" if package else ""
        raise CaptionkitError(f"device {device} is not here; ONNX Runtime has {', '.join(here)}{way_out}")
    return [PROVIDERS[device]] if device == CPU else [PROVIDERS[device], PROVIDERS[CPU]]
