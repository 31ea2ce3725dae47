"""Opening a model for captioning."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captionkit.inference.devices import choose_device
from captionkit.inference.model_source import open_source
from captionkit.inference.onnx_runtime import onnxruntime

if TYPE_CHECKING:
    from captionkit.inference.captioner import Captioner

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """How a model is run: see `load`."""

    threads: int | None = None
    device: str = "cpu"
    precision: str = "auto"
    style: str = ""

    def load(self, source: str | os.PathLike[str] | None = None) -> Captioner:
        """Return `load` with these settings."""
        return load(
            source, threads=self.threads, device=self.device, precision=self.precision, style=self.style or None
        )


USUAL_RUNTIME = Runtime()


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    device: str = "cpu",
    precision: str = "auto",
    style: str | None = None,
) -> Captioner:
    """Load a captioner; by default, the bundled model. Runs on ONNX Runtime.

    source: a model folder of captionkit, an ONNX model as others publish it (VisionEncoderDecoder, Florence-2,
        SmolVLM), a Hub id, or a name that `captionkit models` lists.
    threads: limit on the processors used; by default, all available to the process.
    device: "auto", "cpu", "cuda", "coreml", "directml" or "openvino".
    precision: "auto", "fp32", "fp16", "int8" or "q4", of models that come in several.
    style: "short", "detailed" or "long", of models that take a prompt.

    Raises ModelError, and CaptionkitError for a device that is not here or a setting that the model lacks.
    """
    folder = open_source(source, precision=precision, style=style or "")
    LOG.debug("model %s", folder.path)
    device = choose_device(device, onnxruntime().get_available_providers())
    # Opening the graphs takes as long as importing the rest and releases the GIL, so both run in parallel.
    with ThreadPoolExecutor(1) as pool:
        stepper = pool.submit(folder.stepper, threads, device)
        from captionkit.inference.captioner import Captioner

        return Captioner(folder, stepper.result())
