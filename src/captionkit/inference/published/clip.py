"""CLIPScore with a CLIP model as others publish it as ONNX graphs, such as Xenova/clip-vit-base-patch32.

A folder has the graphs text_model.onnx and vision_model.onnx, or model.onnx for both, in itself or in its folder onnx,
beside config.json, tokenizer.json and preprocessor_config.json; the layout of optimum's exports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captionkit.data.images import Preprocessing, Source
from captionkit.data.tokenizer import read_backend
from captionkit.errors import ModelError
from captionkit.inference.devices import CPU
from captionkit.inference.model_folder import CONFIG, TOKENIZER, WEIGHTS, is_hub_id
from captionkit.inference.published.folder import PREPROCESSOR
from captionkit.inference.published.graphs import Graphs, files_in, graph_files
from captionkit.inference.published.hub import fetch_graphs, list_files
from captionkit.inference.published.image_processor import ImageProcessor
from captionkit.inference.published.json_files import read_json
from captionkit.metrics.clip_score import ClipScoreMetric, clip_pixels, prompted
from captionkit.metrics.metric import Floats
from captionkit.utils import paths

if TYPE_CHECKING:
    import onnxruntime as ort

_TEXT, _VISION, _JOINT = "text_model", "vision_model", "model"
_TEXT_ROWS, _IMAGE_ROWS = "text_embeds", "image_embeds"
_LAYOUTS: tuple[tuple[str, ...], ...] = ((), (_TEXT, _VISION), (_JOINT,))
#: CLIP's own, where a folder has no preprocessor_config.json
_USUAL = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 224},
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_INTERPOLATIONS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_WAY_OUT = "name the Hub id, or the folder, of a CLIP model with ONNX graphs and a tokenizer"


def has_clip_graphs(model: str) -> bool:
    """Return whether the ONNX graphs of `model`, a folder or a Hub id, are what to take.

    Where it has safetensors weights too, torch takes those if it is installed.
    """
    path = Path(model)
    files = files_in(path) if path.is_dir() else list_files(model) if is_hub_id(model) else []
    if WEIGHTS in files and find_spec("torch") is not None:
        return False
    with suppress(ModelError):
        return bool(graph_files(files, _LAYOUTS, "auto"))
    return False


class OnnxClipScore(ClipScoreMetric):
    """CLIPScore and RefCLIPScore with a CLIP model published as ONNX graphs; needs no torch.

    `model` is a Hub id or a folder. `batch` images or captions are embedded at a time, on `device` with at most
    `threads` threads. Raises ModelError if the model cannot be used, CaptionkitError for a device that is not here.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = CPU,
        precision: str = "auto",
        batch: int = 32,
        threads: int | None = None,
    ) -> None:
        super().__init__(batch)
        path = Path(model)
        if not paths.exists(path, ModelError) and is_hub_id(model):
            path = fetch_graphs(model, _LAYOUTS, precision)
        config = _config(path)
        self._preprocessing = _preprocessing(path, config)
        self._tokenizer = _tokenizer(path, config)
        try:
            files = graph_files(files_in(path), _LAYOUTS, precision)
        except ModelError as error:
            raise ModelError(f"{paths.shown(path)}: {error}") from None
        graphs = Graphs(path, files, threads, device)
        names = (_TEXT, _VISION) if _TEXT in files else (_JOINT, _JOINT)
        opened = {name: graphs.open(name) for name in dict.fromkeys(names)}
        self._text, self._vision = (opened[name] for name in names)
        for session, output in ((self._text, _TEXT_ROWS), (self._vision, _IMAGE_ROWS)):
            if output not in {known.name for known in session.get_outputs()}:
                raise ModelError(f"{paths.shown(path)}: its graphs give no {output}, only features; {_WAY_OUT}")

    def _embed_images(self, images: Sequence[Source]) -> Floats:
        """Return unit-length embeddings [B,D]."""
        pixels = np.stack([clip_pixels(image, self._preprocessing) for image in images])  # [B,3,S,S]
        return _embedded(self._vision, _IMAGE_ROWS, {"pixel_values": pixels, **_tokens(np.zeros((1, 1), np.int64))})

    def _embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return unit-length embeddings [T,D]."""
        side = self._preprocessing.width
        blank = {"pixel_values": np.zeros((1, 3, side, side), np.float32)}  # which a joint graph wants too
        parts = []
        for at in range(0, len(texts), self._batch):
            encoded = self._tokenizer.encode_batch(prompted(texts[at : at + self._batch]))
            ids = np.array([one.ids for one in encoded], np.int64)  # [T,L]
            mask = np.array([one.attention_mask for one in encoded], np.int64)  # [T,L]
            parts.append(_embedded(self._text, _TEXT_ROWS, {**_tokens(ids, mask), **blank}))
        return np.concatenate(parts)


def _tokens(ids: np.ndarray, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
    return {"input_ids": ids, "attention_mask": np.ones_like(ids) if mask is None else mask}


def _embedded(session: ort.InferenceSession, output: str, inputs: Mapping[str, np.ndarray]) -> Floats:
    """Return an output of a graph with rows [N,D] of unit length; inputs that the graph does not have are left out."""
    given = {known.name: inputs[known.name] for known in session.get_inputs() if known.name in inputs}
    (found,) = session.run([output], given)
    rows = np.asarray(found, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _config(path: Path) -> Mapping[str, Any]:
    config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    kind = config.get("model_type")
    if kind != "clip":
        found = f"a model of the kind {kind!r}, not 'clip'" if kind else f"has no {CONFIG} of a CLIP model"
        raise ModelError(f"{paths.shown(path)}: {found}; {_WAY_OUT}")
    return config


def _preprocessing(path: Path, config: Mapping[str, Any]) -> Preprocessing:
    stored = read_json(path / PREPROCESSOR) if (path / PREPROCESSOR).is_file() else {}
    side = _number(config, "vision_config", "image_size", 224)
    try:
        processor = ImageProcessor.from_config({**_USUAL, **stored})
        # The processor scales pixels in 0..255, if at all; ours are in 0..1.
        scale = 255 * (1 if processor.scale is None else processor.scale)
        normalisation = (processor.mean, processor.std) if processor.mean else ((0.0,) * 3, (1.0,) * 3)
        mean, std = ([value / scale for value in three] for three in normalisation)
        interpolation = _INTERPOLATIONS.get(processor.resample, "bicubic")
        sizes = {"height": side, "width": side, "fit": "squash", "interpolation": interpolation}
        return Preprocessing.from_dict({**sizes, "mean": mean, "std": std})
    except ModelError as error:
        raise ModelError(f"{path / PREPROCESSOR}: {error}; get the model again") from None


def _tokenizer(path: Path, config: Mapping[str, Any]) -> Any:
    """Return the tokenizer, which truncates captions to CLIP's length and pads them with the token that ends them."""
    if not (path / TOKENIZER).is_file():
        raise ModelError(f"{paths.shown(path)}: has no {TOKENIZER}; {_WAY_OUT}")
    backend = read_backend(path / TOKENIZER)
    vocabulary = _number(config, "text_config", "vocab_size", 49408)
    if backend.get_vocab_size() > vocabulary:
        count = backend.get_vocab_size()
        raise ModelError(f"{paths.shown(path)}: has a tokenizer of {count} tokens, but embeddings of {vocabulary}")
    ends = backend.encode("").ids
    if not ends:
        raise ModelError(f"{path / TOKENIZER}: ends no caption with a token; {_WAY_OUT}")
    backend.enable_truncation(_number(config, "text_config", "max_position_embeddings", 77))
    backend.enable_padding(pad_id=ends[-1])  # graphs without a mask take the first of these for the end
    return backend


def _number(config: Mapping[str, Any], part: str, name: str, usual: int) -> int:
    """Return a number of a part of the config; configs leave out what is CLIP's usual."""
    found = config.get(part)
    value = found.get(name, usual) if isinstance(found, Mapping) else usual
    return value if type(value) is int and value > 0 else usual
