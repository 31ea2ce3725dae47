"""The ONNX Runtime side of decoding: the Stepper contract of captionkit.search over a model folder's two graphs.

`encoder.onnx` takes pictures and yields the state to decode from; `decoder.onnx` goes one word further. Tensors named
"memory.*" stay as they are for a picture, those named "state.*" go from step to step.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from captionkit.bundle import DECODER, ENCODER, ModelFolder
from captionkit.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime as ort

State = dict[str, np.ndarray]


class OnnxStepper:
    """Runs a model folder without torch. Sessions may be used from several threads."""

    def __init__(
        self, folder: ModelFolder, *, threads: int | None = None, graphs: Mapping[str, bytes] | None = None
    ) -> None:
        """`graphs` by file name are run in the place of the folder's own."""
        given = graphs or {}
        with ThreadPoolExecutor(1) as pool:  # on two processors, the two take the time of one
            decoder = pool.submit(_session, folder, DECODER, given.get(DECODER), threads)
            self._encoder = _session(folder, ENCODER, given.get(ENCODER), threads)
            self._decoder = decoder.result()
        self._begun = [output.name for output in self._encoder.get_outputs()]
        self._wanted = {entry.name for entry in self._decoder.get_inputs()}
        self._stepped = [output.name for output in self._decoder.get_outputs()]

    def begin(self, images: np.ndarray) -> State:
        """`images` float32 [B,3,H,W] -> state."""
        return dict(zip(self._begun, self._encoder.run(None, {"images": images}), strict=True))

    def step(
        self, tokens: np.ndarray, parents: np.ndarray, state: State, top_k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, State]:
        """`tokens`, `parents` int64 [B,K] -> log-probs and ids [B,K,T], attention [B,K,G], state."""
        given = self.inputs(tokens, parents, state, top_k)
        found = dict(zip(self._stepped, self._decoder.run(None, given), strict=True))
        log_probs, ids, attention = (found.pop(name) for name in ("log_probs", "ids", "attention"))
        changed = {name.removesuffix(".next"): value for name, value in found.items()}
        return log_probs, ids, attention, {**state, **changed}

    def inputs(self, tokens: np.ndarray, parents: np.ndarray, state: State, top_k: int) -> dict[str, np.ndarray]:
        """What the decoder's graph is given for a step, by name."""
        inputs = {"tokens": tokens, "parents": parents, "top_k": np.array([top_k], np.int64), **state}
        return {name: value for name, value in inputs.items() if name in self._wanted}

    def keep(self, state: State, rows: np.ndarray) -> State:
        """The state of the pictures `rows` [n] alone."""
        return {name: value[rows] for name, value in state.items()}


def _session(folder: ModelFolder, name: str, content: bytes | None, threads: int | None) -> ort.InferenceSession:
    if content is None:
        content = folder.read(name)
    try:
        return open_session(content, threads)
    except Exception as error:  # onnxruntime raises its own kinds, without a common base
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder.path / name}: ONNX Runtime cannot run it ({reason}); export it again") from None


def open_session(content: bytes, threads: int | None = None) -> ort.InferenceSession:
    """A session of a graph on at most `threads` processors; by default, on all that the process may use."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or _processors()
    options.log_severity_level = 3
    # Within a run its workers wait for the next operator without sleeping: one lasts microseconds, waking up takes as
    # long. Between runs they would take the processor from the other graph and from the rest of the program.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # So they would, while they wait for the first run, from what is opened or imported meanwhile. (Older releases of
    # ONNX Runtime know no such setting.)
    options.add_session_config_entry("session.intra_op.spin_duration_us", "200")
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def onnxruntime() -> ModuleType:
    """The library, imported with the first use of it."""
    # Read on import: recent ones would otherwise note their use under ~/.cache and report it.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
