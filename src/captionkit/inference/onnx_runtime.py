"""ONNX Runtime's side of decoding: the Stepper contract of captionkit.inference.search over a model folder's graphs.

`encoder.onnx` takes images and yields the state to decode from; `decoder.onnx` goes one word further. Tensors named
"memory.*" stay as they are for an image, those named "state.*" go from step to step. Images are "images", float32
[B,3,H,W] as `captionkit.data.images.preprocess` gives them, or "pixels", uint8 [B,H,W,4] as `preprocess_bytes` does.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from captionkit.data.images import to_bytes
from captionkit.errors import ModelError
from captionkit.inference.model_folder import DECODER, ENCODER, ModelFolder

if TYPE_CHECKING:
    import onnxruntime as ort

State = dict[str, np.ndarray]

#: the names of what an encoder's graph may take: floats, or bytes
IMAGES, PIXELS = "images", "pixels"
#: what the decoder's graph tells of the next word, in this order
_RANKED = ("log_probs", "ids", "attention")
#: microseconds
_SPIN = "100"
#: the first release that can bound how long a worker waits without sleeping; before it, up to half a second
_BOUNDED_SPIN = (1, 26)


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
        self._preprocessing, self._takes = folder.preprocessing, self._encoder.get_inputs()[0].name
        #: whether images are best given as bytes
        self.takes_bytes = self._takes == PIXELS
        self._begun = [output.name for output in self._encoder.get_outputs()]
        self._wanted = [entry.name for entry in self._decoder.get_inputs()]
        following = [output.name for output in self._decoder.get_outputs() if output.name not in _RANKED]
        self._stepped = [*_RANKED, *following]
        self._changed = [name.removesuffix(".next") for name in following]
        missing = {*self._wanted} - {"tokens", "parents", "top_k", *self._begun}
        if missing:
            raise ModelError(
                f"{folder.path}: {DECODER} asks for {', '.join(sorted(missing))}, which {ENCODER} does not give; "
                "export both again"
            )

    def begin(self, images: np.ndarray) -> State:
        """`images` float32 [B,3,H,W], or uint8 [B,H,W,4] if it `takes_bytes` -> state."""
        return dict(zip(self._begun, self._encoder.run(self._begun, self.pictures(images)), strict=True))

    def overview(self, state: State) -> np.ndarray | None:
        """What the decoder compares itself with, its mean over the cells: float [B,D]; None where it has no such thing.

        It is the first of the "memory.*" by name with rows of cells, [B,G,D] or [B,heads,G,d].
        """
        names = sorted(name for name, value in state.items() if name.startswith("memory.") and value.ndim > 2)
        if not names:
            return None
        means = state[names[0]].mean(axis=-2, dtype=np.float32)  # [B,G,D] -> [B,D], [B,heads,G,d] -> [B,heads,d]
        return means.reshape(len(means), -1)

    def pictures(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What the encoder's graph is given, by name."""
        if self.takes_bytes and images.dtype != np.uint8:
            images = to_bytes(images, self._preprocessing)
        return {self._takes: images}

    def step(
        self, tokens: np.ndarray, parents: np.ndarray, state: State, top_k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, State]:
        """`tokens`, `parents` int64 [B,K] -> log-probs and ids [B,K,T], attention [B,K,G], state."""
        given = self.inputs(tokens, parents, state, top_k)
        log_probs, ids, attention, *changed = self._decoder.run(self._stepped, given)
        return log_probs, ids, attention, {**state, **dict(zip(self._changed, changed, strict=True))}

    def inputs(self, tokens: np.ndarray, parents: np.ndarray, state: State, top_k: int) -> dict[str, np.ndarray]:
        """What the decoder's graph is given for a step, by name."""
        inputs = {"tokens": tokens, "parents": parents, "top_k": np.array([top_k], np.int64), **state}
        return {name: inputs[name] for name in self._wanted}

    def keep(self, state: State, rows: np.ndarray) -> State:
        """The state of the images `rows` [n] alone."""
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
    # Its workers wait for the next operator, and the next word, without sleeping: one lasts microseconds, waking up
    # takes tens of them. No longer than that, or they would take the processor from the rest of the program.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN)
    if tuple(map(int, ort.__version__.split(".")[:2])) < _BOUNDED_SPIN:
        options.add_session_config_entry("session.force_spinning_stop", "1")  # behind each run
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def onnxruntime() -> ModuleType:
    """The library, imported with the first use of it."""
    # Read on import: recent ones would otherwise note their use under ~/.cache and report it.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
