"""Opening a model for captioning."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from captionkit.inference.model_folder import open_model
from captionkit.inference.onnx_runtime import OnnxStepper, onnxruntime

if TYPE_CHECKING:
    from captionkit.inference.captioner import Captioner

LOG = logging.getLogger(__name__)


def load(source: str | os.PathLike[str] | None = None, *, threads: int | None = None) -> Captioner:
    """Load a captioner from a model folder or a Hub id; by default, the bundled model. Runs on ONNX Runtime.

    `threads` limits the processors used; by default, all available to the process. Raises ModelError.
    """
    folder = open_model(source)
    LOG.debug("model %s", folder.path)
    onnxruntime()
    # Opening the graphs takes as long as importing the rest and releases the GIL, so both run in parallel.
    with ThreadPoolExecutor(1) as pool:
        stepper = pool.submit(OnnxStepper, folder, threads=threads)
        from captionkit.inference.captioner import Captioner

        return Captioner(folder, stepper.result())
