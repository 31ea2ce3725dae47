"""captionkit's own contenders: a model folder on ONNX Runtime, and the same weights on torch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

import captionkit
from arithmetic import Counted, Work
from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Captioner
from captionkit.inference.model_folder import DECODER, ENCODER, ModelFolder, open_model
from captionkit.inference.search import State, Stepper
from speed_cases import BATCHES, BEAMS, FORCED, SINGLES, STAGES, STEPS, case

CASES = {
    **{case(beam, batch): (batch, {"num_beams": beam}) for batch in BATCHES for beam in BEAMS},
    # nineteen words and the end
    FORCED: (1, {"num_beams": 3, "min_length": STEPS - 1, "max_length": STEPS - 1}),
}


_WARM = 0.5  # seconds


class Watching:
    """A stepper that passes everything on and keeps count."""

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper
        self.keep, self.overview = stepper.keep, stepper.overview
        self.takes_bytes, self.capabilities = stepper.takes_bytes, stepper.capabilities
        self.batches = self.images = self.steps = self.hypotheses = 0

    def begin(self, images: np.ndarray) -> State:
        self.batches += 1
        self.images += len(images)
        return self._stepper.begin(images)

    def step(self, tokens: np.ndarray, parents: np.ndarray, state: State, top_k: int) -> Any:
        self.steps += 1
        self.hypotheses += tokens.size
        return self._stepper.step(tokens, parents, state, top_k)


class CountingArithmetic(Watching):
    """A stepper that runs the folder's graphs a second time, to count what they do."""

    def __init__(self, stepper: Stepper, folder: ModelFolder, scratch: Path) -> None:
        super().__init__(stepper)
        self.graphs = {
            stage: Counted(folder.read(name), scratch) for stage, name in (("encode", ENCODER), ("decode", DECODER))
        }

    def begin(self, images: np.ndarray) -> State:
        self.graphs["encode"].run(self._stepper.image_inputs(images))
        return super().begin(images)

    def step(self, tokens: np.ndarray, parents: np.ndarray, state: State, top_k: int) -> Any:
        given = {"tokens": tokens, "parents": parents, "top_k": np.array([top_k], np.int64)}
        self.graphs["decode"].run({**given, **state})
        return super().step(tokens, parents, state, top_k)


class Onnx:
    """A model folder as `captionkit.load` runs it. `cases` are settings by name: images together, and decoding."""

    def __init__(
        self,
        model: str | None,
        photos: Sequence[Path],
        threads: int,
        cases: dict[str, tuple[int, dict[str, Any]]] | None = None,
    ) -> None:
        self.cases, self.photos = cases or CASES, [*photos]
        self.captioner = self.load(model, threads)

    def load(self, model: str | None, threads: int) -> Captioner:
        return captionkit.load(model, threads=threads)

    def prepare(self, name: str) -> dict[str, Any]:
        """Of a turn: words a caption, decoder steps a batch, images, and `Work` by stage."""
        with tempfile.TemporaryDirectory() as scratch:
            watching = self.watching(Path(scratch))
            captions = [outcome.caption for outcome in self._turn(name, watching) if outcome.caption]
            work = {stage: work.to_dict() for stage, work in self.work(watching).items()}
        steps = watching.steps / watching.batches
        return {"words": fmean(len(c.words) for c in captions), "steps": steps, "pictures": len(captions), "work": work}

    def watching(self, scratch: Path) -> Watching:
        return CountingArithmetic(self.captioner.stepper, self.captioner.folder, scratch)

    def work(self, watching: Any) -> dict[str, Work]:
        return {stage: graph.work() for stage, graph in watching.graphs.items()}

    def run(self, name: str) -> dict[str, Any]:
        """Milliseconds an image in all and by stage; "open" is what the others leave, by the clock on the wall."""
        self._warm_up()
        start = time.perf_counter()
        outcomes = self._turn(name, self.captioner.stepper)
        total = (time.perf_counter() - start) * 1000 / len(outcomes)
        encode, decode = (fmean(outcome.ms[stage] for outcome in outcomes) for stage in STAGES[1:])
        return {"total": total, **dict(zip(STAGES, (total - encode - decode, encode, decode), strict=True))}

    def _warm_up(self) -> None:
        """Work as long as one image takes the others: processors that have waited start slowly."""
        start = time.perf_counter()
        while time.perf_counter() - start < _WARM:
            self.captioner.caption(self.photos[-1])

    def _turn(self, name: str, stepper: Stepper) -> list[captionkit.Outcome]:
        batch, decoding = self.cases[name]
        captioner, photos = Captioner(self.captioner.folder, stepper), self.photos[: max(batch, SINGLES)]
        outcomes: list[captionkit.Outcome] = []
        for first in range(0, len(photos), batch):
            together = photos[first : first + batch]
            outcomes += captioner.stream(together, batch_size=len(together), num_captions=1, **decoding)
        for outcome in outcomes:
            if outcome.error:
                raise CaptionkitError(outcome.error)
        return outcomes


class Torch(Onnx):
    """The same weights, captioned through torch."""

    def load(self, model: str | None, threads: int) -> Captioner:
        import torch

        from captionkit.models.serialization import load_model
        from captionkit.models.summary import summarize_folder
        from captionkit.models.torch_stepper import TorchStepper

        torch.set_num_threads(threads)
        folder = open_model(model)
        self.summary = summarize_folder(folder)
        return Captioner(folder, TorchStepper(load_model(folder)))

    def prepare(self, name: str) -> dict[str, Any]:
        return {**super().prepare(name), "parameters": self.summary.parameters}

    def watching(self, scratch: Path) -> Watching:
        return Watching(self.captioner.stepper)

    def work(self, watching: Any) -> dict[str, Work]:
        told, parts = self.summary, self.summary.parts
        decoding = sum(part.parameters for part in parts if part.word_flops)
        encoding = sum(part.parameters for part in parts if part.image_flops)
        return {
            "encode": Work(
                {"float32": (told.encoder_flops + told.begin_flops) * watching.images}, encoding * 4, watching.batches
            ),
            "decode": Work({"float32": round(told.word_flops * watching.hypotheses)}, decoding * 4, watching.steps),
        }
