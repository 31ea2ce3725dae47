"""`captionkit export --int8`: write a model folder with 8-bit graphs, and measure the loss in quality."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captionkit.data.images import Source, load_image
from captionkit.data.layouts import CaptionSet, captioned_split, open_dataset
from captionkit.errors import CaptionkitError, ModelError
from captionkit.export.quantization.calibration_images import choose_evenly, choose_images
from captionkit.export.quantization.evaluate_quantized import QuantizedEvaluator
from captionkit.export.quantization.kl_divergence import trace
from captionkit.export.quantization.mixed_precision import DecoderLayerSelector, EncoderLayerSelector
from captionkit.export.quantization.report import Int8Report, card_with
from captionkit.inference.model_folder import (
    CARD,
    DECODER,
    ENCODER,
    WEIGHTS,
    ModelFolder,
    check_place,
    open_model,
    write_model,
)
from captionkit.inference.onnx_runtime import OnnxStepper
from captionkit.utils import paths
from captionkit.utils.progress import progress_bar

#: largest KL divergence of a graph in nats per word, from loose to strict: a stricter one is tried if CIDEr-D falls by
#: too much; the first is used only if captions are scored
_MAX_NATS = (0.004, 0.0015, 0.0005)


@dataclass(frozen=True)
class QuantizationData:
    """The images that graphs are calibrated on, their description, and the captions they are evaluated on, if any."""

    images: Sequence[Source]
    described: str
    references: CaptionSet | None = None


def quantization_data(
    images: Path | Sequence[Source] | None = None, data: Path | None = None, split: str = "val", limit: int = 0
) -> QuantizationData:
    """Find the images that `export_int8` names. Raises CaptionkitError before any long work."""
    references = _references(data, split, limit) if data else None
    if images is None and data is not None:
        dataset = open_dataset(data)
        train = dataset.split("train" if "train" in dataset else split)
        return QuantizationData(choose_evenly(train), f"{train.name}, split {train.split}", references)
    where = "the sample photographs" if images is None else str(images) if isinstance(images, Path) else "those given"
    return QuantizationData(choose_images(images), where, references)


def export_int8(
    source: str | os.PathLike[str],
    output: Path,
    *,
    images: Path | Sequence[Source] | None = None,
    data: Path | None = None,
    split: str = "val",
    limit: int = 0,
    max_loss: float = 0.01,
    keep_weights: bool = False,
) -> Int8Report:
    """Write the model with 8-bit graphs into the folder `output`; `keep_weights` keeps the float weights for training.

    Calibration uses `images` (images, or a folder or dataset of images), else the training split of `data`, else the
    sample photographs (extra `demo`). Convolutions and matrix products with the highest loss per work saved stay in 32
    bits, until the remaining loss is small. With `data`, `limit` images of its `split` (0: all) are captioned before
    and after. Raises ModelError, and writes nothing, if CIDEr-D falls by more than the share `max_loss`.
    """
    folder = open_model(source)
    _check(folder, output, [path for path in (data, images) if isinstance(path, Path)], limit, max_loss)
    found = quantization_data(images, data, split, limit)
    chosen, report = quantize_graphs(folder, _float_graphs(folder), found, max_loss=max_loss)
    return _write(folder, output, chosen, report, keep_weights)


def quantize_graphs(
    folder: ModelFolder, graphs: Mapping[str, bytes], data: QuantizationData, *, max_loss: float = 0.01
) -> tuple[dict[str, bytes], Int8Report]:
    """Return a folder's float `graphs` in 8 bits, by file name, and what that costs; see `export_int8`."""
    exact = OnnxStepper(folder, graphs=graphs)
    pixels = np.stack(
        [load_image(source, folder.preprocessing) for source in progress_bar(data.images, len(data.images), "opening")]
    )
    traced = trace(exact, pixels, folder.tokenizer)
    evaluator = QuantizedEvaluator(folder, graphs, data.images, data.references)
    selectors = [kind(folder, graphs, traced, exact) for kind in (EncoderLayerSelector, DecoderLayerSelector)]
    chosen: dict[str, bytes] = {}
    for max_nats in _MAX_NATS if data.references is not None else _MAX_NATS[1:]:
        said = [selector.choose(max_nats) for selector in selectors]
        chosen, again = {part.name: part.content for part in said}, chosen
        if chosen == again:  # the limit of float units is reached already
            break
        steps = evaluator(chosen)
        report = Int8Report(f"{len(pixels)} images of {data.described}", tuple(said), tuple(steps), evaluator.described)
        if report.loss <= max_loss:
            return chosen, report
    raise ModelError(
        f"{folder.path}: in 8 bits CIDEr-D falls by {report.loss:.2%}, more than {max_loss:.2%}, though the units that "
        "cost most stay in 32 bits; nothing was written; raise --max-loss, or give images like its own with --images"
    )


def _check(folder: ModelFolder, output: Path, inputs: Sequence[Path], limit: int, max_loss: float) -> None:
    if limit < 0 or not 0 <= max_loss <= 1:
        raise CaptionkitError(f"limit {limit}, max-loss {max_loss}: use a number of images, and a share from 0 to 1")
    if paths.real(output) == paths.real(folder.path):
        raise CaptionkitError(f"{output}: is the float model itself; name another folder with --output")
    check_place(output, inputs=inputs)


def _float_graphs(folder: ModelFolder) -> dict[str, bytes]:
    """Return the folder's float graphs, or export them from its weights if it has none.

    Raises ModelError for an int8 folder without weights.
    """
    if folder.runnable and "int8" not in folder.config:
        return {name: folder.read(name) for name in (ENCODER, DECODER)}
    if "int8" in folder.config and WEIGHTS not in folder.config["files"]:
        raise ModelError(f"{folder.path}: is in 8 bits already; give the model that it was made of")
    from captionkit.export.graphs import decoder_graph, encoder_graph
    from captionkit.models.serialization import load_model

    model, shape = load_model(folder), (folder.preprocessing.height, folder.preprocessing.width)
    made = {ENCODER: encoder_graph(model, *shape), DECODER: decoder_graph(model, *shape)}
    return {name: graph.SerializeToString(deterministic=True) for name, graph in made.items()}


def _references(data: Path, split: str, limit: int) -> CaptionSet:
    caption_set = captioned_split(data, split)
    return caption_set.subset(range(min(limit, len(caption_set)))) if limit else caption_set


def _write(
    folder: ModelFolder, output: Path, chosen: dict[str, bytes], report: Int8Report, keep_weights: bool
) -> Int8Report:
    left_out = {ENCODER, DECODER} if keep_weights else {WEIGHTS, ENCODER, DECODER}
    contents = {name: folder.read(name) for name in folder.config["files"] if name not in left_out} | chosen
    if CARD in contents:
        contents[CARD] = card_with(contents[CARD], report)
    tables = {name: value for name, value in folder.config.items() if name not in ("format", "files", "export")}
    write_model(output, {**tables, "int8": report.to_dict()}, contents)
    return report
