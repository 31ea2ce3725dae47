"""Opening a model to caption with."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from captionkit.inference.model_folder import open_model
from captionkit.inference.onnx_runtime import OnnxStepper, onnxruntime

if TYPE_CHECKING:
    from captionkit.inference.captioner import Captioner


def load(source: str | os.PathLike[str] | None = None, *, threads: int | None = None) -> Captioner:
    """A captioner: the bundled one, or that of a model folder or a Hub id. Runs on ONNX Runtime.

    `threads` bounds the processors used; by default, all that the process may use. Raises ModelError.
    """
    folder = open_model(source)
    onnxruntime()
    # To open the graphs takes as long as to import the rest, and needs no Python: neither waits for the other.
    with ThreadPoolExecutor(1) as pool:
        stepper = pool.submit(OnnxStepper, folder, threads=threads)
        from captionkit.inference.captioner import Captioner

        return Captioner(folder, stepper.result())
