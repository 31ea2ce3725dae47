"""`captionkit export`: add ONNX graphs to a model folder after checking on real images that they match torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from captionkit.data.images import Source
from captionkit.errors import ImageError, ModelError
from captionkit.export.graphs import decoder_graph, encoder_graph
from captionkit.export.quantization.calibration_images import choose_images
from captionkit.export.quantization.report import card_without
from captionkit.export.quantization.weight_compression import store_half
from captionkit.inference.captioner import Caption, Captioner
from captionkit.inference.model_folder import CARD, DECODER, ENCODER, check_place, open_model, update_model
from captionkit.inference.onnx_runtime import OnnxStepper
from captionkit.models.serialization import load_model
from captionkit.models.torch_stepper import TorchStepper

#: largest difference of a log-probability or an attention weight that counts as equal
_TOLERANCE = 1e-3
#: the same for graphs in 16 bits: norm layers are folded into weights, which are then rounded again
_HALF_TOLERANCE = 2e-2


@dataclass(frozen=True)
class ExportReport:
    """Comparison of the ONNX graphs with torch."""

    images: int
    same_captions: int
    log_prob_difference: float
    attention_difference: float
    torch_ms: float
    onnx_ms: float
    encoder_bytes: int
    decoder_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.same_captions} of {self.images} captions the same as torch's; largest difference of a "
            f"log-probability {self.log_prob_difference:.1e}, of an attention weight {self.attention_difference:.1e}\n"
            f"encoder.onnx {self.encoder_bytes / 1e6:.1f} MB, decoder.onnx {self.decoder_bytes / 1e6:.1f} MB\n"
            f"milliseconds per image, one at a time, encode and decode: torch {self.torch_ms:.1f}, "
            f"ONNX Runtime {self.onnx_ms:.1f} ({self.torch_ms / self.onnx_ms:.1f} times faster)"
        )


def export_model(
    source: str | os.PathLike[str], *, images: Path | Sequence[Source] | None = None, half: bool = False
) -> ExportReport:
    """Write encoder.onnx and decoder.onnx into a model folder; return the comparison with torch.

    `images` are those to compare on, or a folder or dataset of them; by default, the sample photographs
    (extra `demo`). `half` stores the graphs' weights in 16 bits; the model's own weights must be stored in 16 bits too.
    Raises ModelError if the graphs differ from torch; the folder is then unchanged.
    """
    folder = open_model(source)
    check_place(folder.path)
    compared = choose_images(images)
    model = load_model(folder)
    height, width = folder.preprocessing.height, folder.preprocessing.width
    graphs = {ENCODER: encoder_graph(model, height, width), DECODER: decoder_graph(model, height, width)}
    contents = {
        name: (store_half(graph) if half else graph).SerializeToString(deterministic=True)
        for name, graph in graphs.items()
    }
    with TemporaryDirectory() as scratch:
        staged = update_model(folder, contents, to=Path(scratch) / "model")
        parity = _compare(Captioner(folder, TorchStepper(model)), Captioner(staged, OnnxStepper(staged)), compared)
    parity = replace(parity, encoder_bytes=len(contents[ENCODER]), decoder_bytes=len(contents[DECODER]))
    furthest = max(parity.log_prob_difference, parity.attention_difference)
    if parity.same_captions < parity.images or not furthest <= (_HALF_TOLERANCE if half else _TOLERANCE):
        raise ModelError(
            f"{folder.path}: ONNX Runtime and torch differ, nothing was written; {parity}".replace("\n", "; ")
        )
    if "int8" in folder.config and CARD in folder.config["files"]:
        contents[CARD] = card_without(folder.read(CARD))
    update_model(folder, contents, {"export": asdict(parity), "int8": None})
    return parity


def _compare(torch: Captioner, onnx: Captioner, images: Sequence[Source]) -> ExportReport:
    same, log_prob, attention = 0, 0.0, 0.0
    ms: tuple[list[float], list[float]] = [], []
    pairs = zip(_timed(torch, images, ms[0]), _timed(onnx, images, ms[1]), strict=True)
    for ours, theirs in pairs:
        equal = ours.tokens == theirs.tokens
        same += equal
        if equal:
            log_prob = max(log_prob, abs(ours.log_prob - theirs.log_prob))
            attention = max(attention, float(np.abs(ours.attention - theirs.attention).max(initial=0)))
    return ExportReport(len(images), same, log_prob, attention, float(np.median(ms[0])), float(np.median(ms[1])), 0, 0)


def _timed(captioner: Captioner, images: Sequence[Source], ms: list[float]) -> Iterator[Caption]:
    captioner.caption(images[0])  # warm up: the first call of a runtime includes its initialization
    for image in images:
        outcome = next(captioner.stream([image]))
        if outcome.caption is None:
            raise ImageError(outcome.error)
        ms.append(outcome.ms["encode"] + outcome.ms["decode"])
        yield outcome.caption
