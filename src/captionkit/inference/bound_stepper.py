"""Decoding on an accelerator: the state of a batch stays there from step to step, and only ranked tokens come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from captionkit.inference.onnx_runtime import OnnxStepper, onnxruntime

if TYPE_CHECKING:
    import onnxruntime as ort

    from captionkit.inference.model_folder import ModelFolder
    from captionkit.inference.search import Overview

#: ONNX Runtime's tensors by name
State = dict[str, Any]


class BoundStepper(OnnxStepper):
    """`OnnxStepper` whose states are tensors on a device, by ONNX Runtime's I/O binding."""

    def __init__(self, folder: ModelFolder, *, threads: int | None = None, device: str) -> None:
        """Open both graphs; `device` is "cuda", or "cpu", which gains nothing."""
        super().__init__(folder, threads=threads, device=device)
        self._device = device

    def begin(self, images: np.ndarray) -> State:
        """Encode `images`, as `OnnxStepper.begin`, and leave the state on the device."""
        found = self._run(self._encoder, self.image_inputs(images), [], self._begun)
        return dict(zip(self._begun, found, strict=True))

    def step(
        self, tokens: np.ndarray, parents: np.ndarray, state: State, top_k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, State]:
        """Decode one step, as `OnnxStepper.step`."""
        given = self.inputs(tokens, parents, state, top_k)
        many = len(self._stepped) - len(self._changed)
        ranked, following = self._stepped[:many], self._stepped[many:]
        log_probs, ids, *others = self._run(self._decoder, given, ranked, following)
        attention = others.pop(0).numpy() if self._has_maps else np.empty((*tokens.shape, 0), np.float32)
        changed = dict(zip(self._changed, others, strict=True))
        return log_probs.numpy(), ids.numpy(), attention, {**state, **changed}

    def keep(self, state: State, rows: np.ndarray) -> State:
        """Return the state reduced to the images `rows` [n]."""
        make = onnxruntime().OrtValue.ortvalue_from_numpy
        return {name: make(value.numpy()[rows], self._device, 0) for name, value in state.items()}

    def overview(self, state: State) -> Overview | None:
        """Return what a caption's confidence may use of a state, as `OnnxStepper.overview`."""
        return super().overview({n: value.numpy() for n, value in state.items() if n.startswith("memory.")})

    def _run(
        self, session: ort.InferenceSession, given: dict[str, Any], here: Sequence[str], there: Sequence[str]
    ) -> list[Any]:
        """Run a graph; outputs `here` come to the CPU, those `there` stay on the device."""
        binding = session.io_binding()
        for name, value in given.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(name, value)
        for name in here:
            binding.bind_output(name, "cpu")
        for name in there:
            binding.bind_output(name, self._device)
        session.run_with_iobinding(binding)
        return list(binding.get_outputs())
