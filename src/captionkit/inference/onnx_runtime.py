"""The ONNX Runtime backend: the Stepper protocol of captionkit.inference.search over a model folder's graphs.

`encoder.onnx` maps images to the initial state; `decoder.onnx` computes one decoding step. Tensors named "memory.*" are
constant for an image; those named "state.*" are passed from step to step. Images are "images", float32 [B,3,H,W] as
`captionkit.data.images.preprocess` gives them, or "pixels", uint8 [B,H,W,4] as `preprocess_bytes` does.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np

from captionkit.data.images import to_bytes
from captionkit.errors import ModelError, one_line
from captionkit.inference.devices import CPU, providers_of
from captionkit.inference.model_folder import DECODER, ENCODER, ModelFolder
from captionkit.inference.search.stepper import CONCEPTS, Overview, cells_of

if TYPE_CHECKING:
    import onnxruntime as ort

    from captionkit.inference.search import Capability

State = dict[str, np.ndarray]

#: possible names of the encoder's input: floats, or bytes
IMAGES, PIXELS = "images", "pixels"
_ATTENTION: Literal["attention"] = "attention"
#: the decoder's outputs for the next word, in this order
_RANKED = ("log_probs", "ids", _ATTENTION)
#: how long idle workers spin, in microseconds
_SPIN = "100"
#: what a decoder can do; the second only if its graph gives it
_ALL: tuple[Capability, ...] = ("constraints", "attention")
#: the first release that can limit the spinning of workers; before it, they spin up to half a second
_BOUNDED_SPIN = (1, 26)


class OnnxStepper:
    """Runs a model folder without torch. Thread-safe, as are ONNX Runtime's sessions."""

    def __init__(
        self,
        folder: ModelFolder,
        *,
        threads: int | None = None,
        graphs: Mapping[str, bytes] | None = None,
        device: str = CPU,
    ) -> None:
        """Open both graphs for `device`, see captionkit.inference.devices.

        `graphs`, by the names ENCODER and DECODER, replace the folder's own.
        """
        given, named = graphs or {}, folder.graphs
        with ThreadPoolExecutor(1) as pool:  # in parallel, both open in the time of one
            decoder = pool.submit(_session, folder, named["decoder"], given.get(DECODER), threads, device)
            self._encoder = _session(folder, named["encoder"], given.get(ENCODER), threads, device)
            self._decoder = decoder.result()
        self._preprocessing, self._takes = folder.preprocessing, self._encoder.get_inputs()[0].name
        #: whether the encoder takes images as bytes
        self.takes_bytes = self._takes == PIXELS
        self._begun = [output.name for output in self._encoder.get_outputs()]
        self._wanted = [entry.name for entry in self._decoder.get_inputs()]
        given_back = [output.name for output in self._decoder.get_outputs()]
        self._has_maps = _ATTENTION in given_back
        #: what the decoder can do; it gives attention only if its graph has that output
        self.capabilities: frozenset[Capability] = frozenset(
            ("constraints", _ATTENTION) if self._has_maps else ("constraints",)
        )
        ranked = _RANKED if self._has_maps else _RANKED[:2]
        following = [name for name in given_back if name not in ranked]
        self._stepped = [*ranked, *following]
        self._changed = [name.removesuffix(".next") for name in following]
        missing = {*self._wanted} - {"tokens", "parents", "top_k", *self._begun}
        if missing:
            raise ModelError(
                f"{folder.path}: {DECODER} asks for {', '.join(sorted(missing))}, which {ENCODER} does not give; "
                "export both again"
            )

    def begin(self, images: np.ndarray) -> State:
        """Encode `images`, float32 [B,3,H,W], or uint8 [B,H,W,4] if `takes_bytes`, and return the state."""
        return dict(zip(self._begun, self._encoder.run(self._begun, self.image_inputs(images)), strict=True))

    def overview(self, state: State) -> Overview | None:
        """Return the mean over grid cells of what the decoder attends to, [B,D], and a concept head's evidence [B,V].

        None if the state holds no cells.
        """
        cells = cells_of(state)
        if cells is None:
            return None
        means = cells.mean(axis=-2, dtype=np.float32)  # [B,G,D] -> [B,D], [B,heads,G,d] -> [B,heads,d]
        return Overview(means.reshape(len(means), -1), state.get(CONCEPTS))

    def image_inputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the encoder's inputs by name."""
        if self.takes_bytes and images.dtype != np.uint8:
            images = to_bytes(images, self._preprocessing)
        return {self._takes: images}

    def step(
        self, tokens: np.ndarray, parents: np.ndarray, state: State, top_k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, State]:
        """Decode one step: `tokens`, `parents` int64 [B,K] -> log-probs and ids [B,K,T], attention [B,K,G], state."""
        given = self.inputs(tokens, parents, state, top_k)
        log_probs, ids, *others = self._decoder.run(self._stepped, given)
        attention = others.pop(0) if self._has_maps else np.empty((*tokens.shape, 0), np.float32)
        return log_probs, ids, attention, {**state, **dict(zip(self._changed, others, strict=True))}

    def inputs(self, tokens: np.ndarray, parents: np.ndarray, state: State, top_k: int) -> dict[str, np.ndarray]:
        """Return the decoder's inputs for a step by name."""
        inputs = {"tokens": tokens, "parents": parents, "top_k": np.array([top_k], np.int64), **state}
        return {name: inputs[name] for name in self._wanted}

    def keep(self, state: State, rows: np.ndarray) -> State:
        """Return the state reduced to the images `rows` [n]."""
        return {name: value[rows] for name, value in state.items()}


def _session(
    folder: ModelFolder, name: str, content: bytes | None, threads: int | None, device: str
) -> ort.InferenceSession:
    if content is None:
        content = folder.read(name)
    try:
        return open_session(content, threads, device)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        reason = one_line(error)
        raise ModelError(f"{folder.path / name}: ONNX Runtime cannot run it ({reason}); export it again") from None


def open_session(graph: bytes | str, threads: int | None = None, device: str = CPU) -> ort.InferenceSession:
    """Create a session for a graph, its content or its path, on `device`.

    It uses at most `threads` threads; by default, one per available processor. Raises ONNX Runtime's exceptions.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or processors()
    options.log_severity_level = 3
    # Idle workers spin until the next operator and the next step: an operator takes microseconds, waking up tens of
    # them. The limit keeps them from taking the processor away from the rest of the program.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN)
    if tuple(map(int, ort.__version__.split(".")[:2])) < _BOUNDED_SPIN:
        options.add_session_config_entry("session.force_spinning_stop", "1")  # stops after each run
    return ort.InferenceSession(graph, options, providers=providers_of(device))


def onnxruntime() -> ModuleType:
    """Import onnxruntime on first use and return it."""
    # Read on import: recent releases would otherwise record usage under ~/.cache and report it.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def processors() -> int:
    """Return the number of processors available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
