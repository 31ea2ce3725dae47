"""`captionkit import`: write a captioner of transformers as a model folder that runs without torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch

from captionkit.data.images import Source, load_image
from captionkit.data.special_tokens import SpecialTokens
from captionkit.errors import CaptionkitError, ModelError
from captionkit.export.graphs import decoder_graph, encoder_graph
from captionkit.export.importers.families import Imported
from captionkit.export.importers.pretrained import Pretrained, read_pretrained
from captionkit.export.importers.report import ImportReport, Parity, card
from captionkit.export.quantization.calibration_images import choose_images
from captionkit.export.quantization.int8 import quantization_data, quantize_graphs
from captionkit.export.quantization.weight_compression import store_half
from captionkit.inference.model_folder import (
    CARD,
    DECODER,
    ENCODER,
    TOKENIZER,
    ModelFolder,
    check_place,
    write_model,
)
from captionkit.inference.onnx_runtime import OnnxStepper
from captionkit.inference.search import Begun, Decoding, search

_log = logging.getLogger(__name__)

#: the graphs that an import can write: weights and arithmetic in 32 bits, weights in 16 bits, arithmetic in 8 bits
PRECISIONS = ("fp32", "fp16", "int8")
#: largest difference of a caption's log-probability from transformers' that counts as equal
_TOLERANCE = 1e-2
#: most tokens of the captions that are compared
_COMPARED = 20
#: the most bytes of weights that an ONNX file holds
_LARGEST = (1 << 31) - (1 << 20)


@dataclass(frozen=True)
class Judging:
    """What 8 bits may cost, and on which captioned images that is measured; see `export_int8`."""

    data: Path | None = None
    split: str = "val"
    limit: int = 0
    max_loss: float = 0.01


def import_model(
    source: str | os.PathLike[str],
    output: Path,
    *,
    precisions: Sequence[str] = PRECISIONS,
    images: Path | Sequence[Source] | None = None,
    style: str = "short",
    judging: Judging | None = None,
) -> ImportReport:
    """Write a captioner of transformers, a folder or a Hub id, into the model folder `output`.

    The graphs of each precision are compared with transformers' `generate` on real `images`: those given, those of a
    folder or dataset, or the sample photographs (extra `demo`). `style` ("short", "detailed" or "long") chooses
    Florence-2's caption task. Raises ModelError, and writes nothing, for a model that cannot be imported, whose graphs
    in 32 bits differ from transformers, or that loses too much in 8 bits.
    """
    wanted, judging = _precisions(precisions), judging or Judging()
    given = [Path(source), *(path for path in (images, judging.data) if isinstance(path, Path))]
    check_place(output, inputs=[path for path in given if path.exists()])
    photos = choose_images(images)
    data = quantization_data(images, judging.data, judging.split, judging.limit) if "int8" in wanted else None
    pretrained = read_pretrained(os.fspath(source), style=style)
    _log.info("%s is a %s; exporting its graphs", pretrained.origin.id, pretrained.kind)
    graphs = _float_graphs(pretrained)
    with TemporaryDirectory() as scratch:
        floats = {name: _bytes(graph) for name, graph in graphs.items()}
        staged = write_model(Path(scratch) / "model", _config(pretrained), {**_described(pretrained), **floats})
        pixels = [load_image(photo, pretrained.preprocessing) for photo in photos]
        expected = list(zip(_generated(pretrained, pixels), pixels, strict=True))
        made = {"fp32": floats}
        parities = [_parity("fp32", staged, floats, pretrained, expected)]
        _check_parity(parities[0], pretrained)
        if "fp16" in wanted:
            made["fp16"] = {name: _bytes(store_half(graph)) for name, graph in graphs.items()}
            parities.append(_parity("fp16", staged, made["fp16"], pretrained, expected))
        cost = None
        if data is not None:
            made["int8"], cost = quantize_graphs(staged, floats, data, max_loss=judging.max_loss)
            parities.append(_parity("int8", staged, made["int8"], pretrained, expected))
    report = ImportReport(tuple(parity for parity in parities if parity.precision in wanted), cost)
    _write(output, pretrained, report, {name: made[name] for name in wanted})
    return report


def _write(
    output: Path, pretrained: Pretrained, report: ImportReport, made: Mapping[str, Mapping[str, bytes]]
) -> ModelFolder:
    """Write the model folder: the graphs by precision and file name, tokenizer, config and card."""
    contents = _described(pretrained) | {CARD: card(pretrained, report).encode()}
    for precision, parts in made.items():
        contents |= {graph_name(name, precision): content for name, content in parts.items()}
    table: dict[str, Any] = {"compared": {parity.precision: asdict(parity) for parity in report.parities}}
    if report.int8 is not None:  # not in a table "int8": of a folder with that, the plain graphs are in 8 bits
        table["int8"] = report.int8.to_dict()
    return write_model(output, {**_config(pretrained), "import": table}, contents)


def graph_name(name: str, precision: str) -> str:
    """Return the file name of a graph in a precision: "decoder.onnx" in 32 bits, else such as "decoder_int8.onnx"."""
    return name if precision == "fp32" else name.replace(".", f"_{precision}.", 1)


def _precisions(asked: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in asked if name not in PRECISIONS]
    if unknown or not asked:
        raise CaptionkitError(f"precision {', '.join(unknown) or 'none'}: use some of {', '.join(PRECISIONS)}")
    return tuple(name for name in PRECISIONS if name in asked)


def _float_graphs(pretrained: Pretrained) -> dict[str, onnx.ModelProto]:
    """Export both graphs in 32 bits. Raises ModelError where one would be larger than an ONNX file can be."""
    model, size = pretrained.imported.model, pretrained.preprocessing
    for part, name in ((model.encoder, "encoder"), (model.decoder, "decoder")):
        weights = sum(parameter.numel() * parameter.element_size() for parameter in part.parameters())
        if weights > _LARGEST:
            raise ModelError(
                f"{pretrained.origin.path}: its {name} has {weights / 1e9:.1f} GB of weights, and an ONNX file holds "
                "at most 2.1; name a smaller model"
            )
    return {
        ENCODER: encoder_graph(model, size.height, size.width),
        DECODER: decoder_graph(model, size.height, size.width),
    }


def _bytes(graph: onnx.ModelProto) -> bytes:
    return graph.SerializeToString(deterministic=True)


def _described(pretrained: Pretrained) -> dict[str, bytes]:
    """Return the tokenizer's file: the pretrained one, as it is."""
    return {TOKENIZER: pretrained.tokenizer.backend_tokenizer.to_str().encode()}


def _config(pretrained: Pretrained) -> dict[str, Any]:
    """Return the tables of the folder's config."""
    imported = pretrained.imported
    cells = imported.model.cells
    parts = {part: _sizes(getattr(imported.model, part)) for part in ("encoder", "decoder")}
    grid = {} if cells is None else {"grid": [cells.rows, cells.columns]}
    return {
        "architecture": {"name": pretrained.kind, **parts, **grid},
        "preprocessing": pretrained.preprocessing.to_dict(),
        "decoding": pretrained.generation.decoding.to_dict(),
        "special_tokens": pretrained.generation.special.to_dict(),
        "source": pretrained.origin.to_dict(),
    }


def _sizes(part: torch.nn.Module) -> dict[str, Any]:
    return {"name": type(part).__name__, "parameters": sum(parameter.numel() for parameter in part.parameters())}


class _Said(NamedTuple):
    """A caption: token ids without start and end, and its log-probability."""

    tokens: tuple[int, ...]
    log_prob: float


@torch.inference_mode()
def _generated(pretrained: Pretrained, pixels: Sequence[np.ndarray]) -> Iterator[_Said]:
    """Yield what transformers' `generate` says of each image [3,H,W], greedily and with no other rule."""
    free: dict[str, Any] = {"no_repeat_ngram_size": 0, "min_length": 0, "bad_words_ids": None, "suppress_tokens": None}
    free |= {"forced_bos_token_id": None, "forced_eos_token_id": None, "length_penalty": 1.0, "early_stopping": False}
    for image in pixels:
        out = pretrained.network.generate(
            pixel_values=torch.from_numpy(image)[None],  # [3,H,W] -> [1,3,H,W]
            **pretrained.imported.prompt,
            **free,
            num_beams=1,
            do_sample=False,
            max_new_tokens=_COMPARED,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ids = out.sequences[0, -len(out.logits) :].tolist()  # without what was given
        chosen = [float(logits[0].log_softmax(-1)[token]) for logits, token in zip(out.logits, ids, strict=True)]
        yield _Said(tuple(token for token in ids if token != pretrained.imported.end), sum(chosen))


def _compared(
    precision: str, stepper: OnnxStepper, size: int, imported: Imported, expected: Sequence[tuple[_Said, np.ndarray]]
) -> Parity:
    """Compare greedy captions of a precision's graphs, `size` bytes, with those `expected` of images [3,H,W]."""
    decoding = Decoding(num_beams=1, min_length=0, max_length=_COMPARED, early_stopping="false")
    special = SpecialTokens(imported.start, imported.end)
    same, furthest = 0, 0.0
    for wanted, image in expected:
        begun = Begun(stepper.begin(image[None]), image[None])  # [3,H,W] -> [1,3,H,W]
        found = search(stepper, begun, decoding, special)[0][0]
        if tuple(found.tokens.tolist()) == wanted.tokens:
            same += 1
            furthest = max(furthest, abs(found.log_prob - wanted.log_prob))
    return Parity(precision, len(expected), same, furthest, size / 1e6)


def _check_parity(parity: Parity, pretrained: Pretrained) -> None:
    if parity.same_captions < parity.images or not parity.log_prob_difference <= _TOLERANCE:
        raise ModelError(
            f"{pretrained.origin.path}: its graphs differ from transformers, nothing was written; {parity}"
        )


def _parity(
    precision: str,
    folder: ModelFolder,
    graphs: Mapping[str, bytes],
    pretrained: Pretrained,
    expected: Sequence[tuple[_Said, np.ndarray]],
) -> Parity:
    size = sum(map(len, graphs.values()))
    return _compared(precision, OnnxStepper(folder, graphs=graphs), size, pretrained.imported, expected)
