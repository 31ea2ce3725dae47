"""The choices of how a model is run: devices of ONNX Runtime, precisions, styles of captions."""

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
#: precision -> suffixes of file names; in this order, "auto" takes the first that a folder has
PRECISIONS = {
    "fp32": ("",),
    "int8": ("_int8", "_quantized", "_uint8"),
    "fp16": ("_fp16",),
    "q4": ("_q4", "_q4f16", "_bnb4"),
}
#: of captions, by models that take a prompt
STYLES = ("short", "detailed", "long")
#: device -> the package that brings its provider
_PACKAGES = {"cuda": "onnxruntime-gpu", "directml": "onnxruntime-directml", "openvino": "onnxruntime-openvino"}


def choose_device(device: str, available: Sequence[str]) -> str:
    """Return the device to use, given the execution providers `available`.

    "auto" is the first accelerator there is, or with a logged line the CPU. Raises CaptionkitError for a device that is
    unknown or absent, naming those that are here.
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
        raise CaptionkitError(f"device {device} is not here; use auto or one of those here: {', '.join(here)}{way_out}")
    return device


def providers_of(device: str) -> list[str]:
    """Return the execution providers for a device; the CPU takes what the first of them cannot do."""
    return list(dict.fromkeys((PROVIDERS[device], PROVIDERS[CPU])))
