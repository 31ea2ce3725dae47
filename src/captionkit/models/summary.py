"""Summarize a model part by part: output shapes, parameters, FLOPs and memory, computed on meta tensors.

FLOPs are those of `torch.utils.flop_counter`: matrix products, convolutions and attention count, a multiply-add as two;
additions, activations, norms, softmax and look-ups do not. Memory sizes assume 32-bit numbers.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from captionkit.inference.model_folder import ModelFolder
from captionkit.models.captioning_model import CaptioningModel
from captionkit.models.serialization import load_model

#: length of the counted caption, about that of COCO and Flickr8k, and the usual beam size
WORDS = 11
BEAM = 3


@dataclass(frozen=True)
class LayerSummary:
    """One line of the summary."""

    #: plain "encoder" and "decoder" are what belongs to none of their parts
    name: str
    kind: str
    #: output shape for one image and, in the decoder, one word of one hypothesis; the first dimension is the batch
    output: list[int]
    parameters: int
    #: number of parameters that the model's recipe trained
    trained: int
    #: FLOPs once per image
    image_flops: int
    #: FLOPs per word and hypothesis, averaged over a caption
    word_flops: float
    #: bytes that autograd saves for the backward pass, for one image and all words of one caption
    activations: int


@dataclass(frozen=True)
class ModelSummary:
    """A model's parts and their totals."""

    parts: list[LayerSummary]
    #: height and width of the counted image
    image_size: tuple[int, int]
    words: int
    beam: int
    parameters: int
    trained: int
    encoder_flops: int
    #: FLOPs per image in the neck and the decoder before the first word
    begin_flops: int
    word_flops: float
    #: FLOPs of a caption of `words` words and the end token with beam size `beam`, including the encoder
    caption_flops: int
    #: bytes of parameters and buffers
    weights: int
    #: bytes saved for the backward pass of one image with one caption, if all parameters are trained
    activations: int

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return {**asdict(self), "image_size": list(self.image_size)}

    def __str__(self) -> str:
        rows = [("part", "", "output", "parameters", "trained", "GFLOPs an image", "MFLOPs a word", "activations")]
        for part in self.parts:
            shape = f"[{', '.join(['B', *map(str, part.output[1:])])}]" if part.output else ""
            numbers = (f"{part.parameters:,}", f"{part.trained:,}", _figure(part.image_flops / 1e9))
            memory = f"{part.activations / 1e6:.2f} MB"
            rows.append((part.name, part.kind, shape, *numbers, _figure(part.word_flops / 1e6), memory))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(f"{cell:{'<' if i < 3 else '>'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
            for row in rows
        ]
        height, width = self.image_size
        return "\n".join(
            [
                *lines,
                f"parameters  {self.parameters:,}, of which {self.trained:,} trained",
                f"encoder     {self.encoder_flops / 1e9:.3f} GFLOPs an image of {height} x {width} pixels",
                f"decoder     {self.begin_flops / 1e6:.1f} MFLOPs an image, {self.word_flops / 1e6:.2f} MFLOPs a word",
                f"caption     {self.caption_flops / 1e9:.3f} GFLOPs in all, for {self.words} words at beam {self.beam}",
                f"memory      {self.weights / 1e6:.1f} MB of weights in 32 bits; training keeps "
                f"{self.activations / 1e6:.1f} MB for an image and a caption, if all is trained",
                "            a multiply-add is 2 FLOPs; products and convolutions count, elementwise operations do not",
            ]
        )


def _figure(value: float) -> str:
    return f"{value:.3f}" if value else ""


def summarize_folder(folder: ModelFolder) -> ModelSummary:
    """Summarize the model of a folder at its own image size. Raises ModelError if it cannot be built.

    Which parameters count as trained is taken from the recipe in its provenance; without one, only neck and decoder.
    """
    model = load_model(folder)
    recipe = folder.config.get("provenance", {}).get("recipe", {}).get("encoder", {})
    stage = {"all": 0, "stages": recipe.get("first_stage", -1)}.get(recipe.get("train"))
    model.encoder.train_from(stage)
    size = folder.preprocessing
    return summarize(model, size.height, size.width)


def summarize(model: CaptioningModel, height: int, width: int) -> ModelSummary:
    """Summarize `model` for an image of `height` x `width` pixels and a caption of `WORDS` words.

    Parameters that require a gradient count as trained. Raises ModelError for a size that the encoder does not accept.
    """
    grid = model.encoder.grid(height, width)
    parts = _parts(model)
    outline = copy.deepcopy(model).eval().to("meta").requires_grad_()
    meter = _Meter(_parts(outline), outline)
    with torch.device("meta"), meter.running():
        with meter.phase("image", "encoder"):
            features = outline.features(torch.zeros(1, 3, height, width))
        with meter.phase("image", "neck"):
            memory = outline.project(features, grid)
        with meter.phase("image", "decoder"):
            state = outline.begin(memory)
        with meter.phase("words", "decoder"):
            _caption(outline, state, beam=1)
        with meter.phase("beam", "decoder"):
            _caption(outline, state, beam=BEAM)
    steps = WORDS + 1  # plus the end token
    rows = []
    for name, module in parts.items():
        own = _own(name, module, parts)
        rows.append(
            LayerSummary(
                name,
                type(module).__name__ if not isinstance(module, nn.ModuleList) else type(module[0]).__name__,
                meter.shapes.get(name, []),
                sum(p.numel() for p in own),
                sum(p.numel() for p in own if p.requires_grad),
                meter.flops["image", name],
                meter.flops["words", name] / steps,
                meter.kept["image", name] + meter.kept["words", name],
            )
        )
    rows = [row for row in rows if row.parameters or row.image_flops or row.word_flops]
    encoder = sum(row.image_flops for row in rows if row.name.startswith("encoder"))
    once = sum(row.image_flops for row in rows)
    tensors = [*model.parameters(), *model.buffers()]
    return ModelSummary(
        parts=rows,
        image_size=(height, width),
        words=WORDS,
        beam=BEAM,
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        encoder_flops=encoder,
        begin_flops=once - encoder,
        word_flops=sum(row.word_flops for row in rows),
        caption_flops=once + sum(n for (phase, _), n in meter.flops.items() if phase == "beam"),
        weights=sum(t.numel() * t.element_size() for t in tensors),
        activations=sum(row.activations for row in rows),
    )


def _caption(model: CaptioningModel, state: dict[str, Tensor], *, beam: int) -> None:
    """Run the decoding steps of a caption: the first with one hypothesis, the others with `beam`."""
    for step in range(WORDS + 1):
        alive = torch.zeros(1, beam if step else 1, dtype=torch.long)  # [B,K]
        _, _, changed = model.step(alive, alive, state)
        state = {**state, **changed}


def _parts(model: CaptioningModel) -> dict[str, nn.Module]:
    """Return encoder stages, neck, concept head and decoder children by name, plus encoder and decoder for the rest."""
    parts: dict[str, nn.Module] = {f"encoder.{number}": stage for number, stage in enumerate(model.encoder.stages)}
    parts |= {"encoder": model.encoder, "neck": model.neck}
    for name, child in model.decoder.named_children():
        if isinstance(child, (nn.ModuleList, nn.Sequential)):
            parts |= {f"decoder.{name}.{number}": part for number, part in enumerate(child)}
        else:
            parts[f"decoder.{name}"] = child
    concepts = {} if model.concepts is None else {"concepts": model.concepts}
    return {**parts, **concepts, "decoder": model.decoder}


def _own(name: str, module: nn.Module, parts: dict[str, nn.Module]) -> list[nn.Parameter]:
    """Return the parameters of a part that belong to none of its sub-parts."""
    inner = {id(p) for other, part in parts.items() if other.startswith(f"{name}.") for p in part.parameters()}
    return [p for p in module.parameters() if id(p) not in inner]


class _Meter:
    """Counts FLOPs and saved bytes by phase and by the innermost running part."""

    def __init__(self, parts: dict[str, nn.Module], model: nn.Module) -> None:
        self.flops: Counter[tuple[str, str]] = Counter()
        self.kept: Counter[tuple[str, str]] = Counter()
        self.shapes: dict[str, list[int]] = {}
        self._counter = FlopCounterMode(display=False)
        self._counted = 0
        self._phase, self._working = "", [""]
        # Storages that are not activations or already counted. Holding references keeps their ids from being reused.
        self._storages = {s._cdata: s for s in (t.untyped_storage() for t in [*model.parameters(), *model.buffers()])}
        inside = {
            name: [part] if name in ("encoder", "decoder") else list(part.modules()) for name, part in parts.items()
        }
        met = Counter(module for modules in inside.values() for module in modules)
        for name, modules in inside.items():
            for module in modules:
                if met[module] == 1:  # a module shared by several parts counts for the part that calls it
                    module.register_forward_pre_hook(lambda *_, name=name: self._enter(name))
                    module.register_forward_hook(lambda _, __, out, name=name: self._leave(name, out))

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._counter, saved_tensors_hooks(self._keep, lambda kept: kept):
            yield

    @contextmanager
    def phase(self, phase: str, part: str) -> Iterator[None]:
        """Attribute what runs inside to this phase and, unless an inner part is running, to this part."""
        self._count()
        self._phase, self._working = phase, [part]
        yield
        self._count()

    def _count(self) -> None:
        total = self._counter.get_total_flops()
        self.flops[self._phase, self._working[-1]] += total - self._counted
        self._counted = total

    def _enter(self, name: str) -> None:
        self._count()
        self._working.append(name)

    def _leave(self, name: str, output: Any) -> None:
        self._count()
        self._working.pop()
        first = next((t for t in _flat(output) if isinstance(t, Tensor)), None)
        if first is not None and self._phase != "beam":
            self.shapes[name] = list(first.shape)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage
            self.kept[self._phase, self._working[-1]] += storage.nbytes()
        return tensor


def _flat(output: Any) -> list[Any]:
    if isinstance(output, dict):  # as the outputs of transformers models are
        return list(output.values())
    return list(output) if isinstance(output, (tuple, list)) else [output]
