"""A folder as others publish it: what kind of model it holds, its files, and what captionkit fitted to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.caption_confidence import CaptionConfidence
from captionkit.inference.devices import CPU, STYLES
from captionkit.inference.model_folder import CONFIG, TOKENIZER, in_hub_cache
from captionkit.inference.published import florence2, smolvlm, vision_encoder_decoder
from captionkit.inference.published.families import FAMILIES, PROCESSOR_CONFIG
from captionkit.inference.published.graphs import Graphs, files_in, graph_files
from captionkit.inference.published.json_files import read_json
from captionkit.inference.published.tables import read_tables, tables_path, write_tables
from captionkit.inference.word_confidence import WordConfidence
from captionkit.utils import paths

if TYPE_CHECKING:
    import tokenizers

    from captionkit.data.pretrained_tokenizer import PretrainedTokenizer
    from captionkit.inference.published.chat import ChatPrompt
    from captionkit.inference.published.generation import Generation
    from captionkit.inference.published.image_processor import ImageProcessor
    from captionkit.inference.published.tiles import TileProcessor
    from captionkit.inference.search import Decoding, Stepper

GENERATION, PREPROCESSOR = "generation_config.json", "preprocessor_config.json"


class Heads(TypedDict):
    """The attention heads of a decoder."""

    heads: int
    size: int


class PublishedFolder:
    """An opened folder of a published model; the counterpart of `ModelFolder`."""

    #: published graphs give no attention maps
    grid = (0, 0)

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, precision: str = "auto", style: str = "", name: str = ""
    ) -> None:
        """`settings` is the content of its config.json. Raises ModelError, CaptionkitError for a style it lacks."""
        self.path, self.settings, self.name = path, settings, name or path.name
        self._family = FAMILIES[str(settings["model_type"])]
        if style and not self._family.prompted:
            raise CaptionkitError(f"{path}: has one style of captions; leave out the style")
        if style and style not in STYLES:
            raise CaptionkitError(f"style {style!r} is unknown; use {', '.join(STYLES)}")
        self.style = style or STYLES[0]
        try:
            self.graphs = graph_files(files_in(path), self._family.graphs, precision)
        except ModelError as error:
            raise ModelError(f"{paths.shown(path)}: {error}") from None

    def stepper(self, threads: int | None = None, device: str = CPU) -> Stepper:
        """Open the graphs. Raises ModelError."""
        from captionkit.inference.published.tiles import TileProcessor

        graphs = Graphs(self.path, self.graphs, threads, device)
        try:
            if isinstance(self.preprocessing, TileProcessor):
                return smolvlm.SmolVlmStepper(self, graphs, self.preprocessing)
            if self._family.prompted:
                return florence2.Florence2Stepper(self, graphs, self.style)
            return vision_encoder_decoder.VisionEncoderDecoderStepper(self, graphs)
        except ModelError as error:
            raise ModelError(str(error) if str(self.path) in str(error) else f"{self.path}: {error}") from None

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The files that are used, each with its size and hash."""
        names = [CONFIG, TOKENIZER, PREPROCESSOR, *self._family.files, *self.graphs.values()]
        files = {name: _described(self.path / name) for name in names if (self.path / name).is_file()}
        return {"files": files, **self._tables}

    @cached_property
    def generation(self) -> Generation:
        """How the model's makers generate."""
        from captionkit.inference.published.generation import USUAL_LENGTH, read_generation

        # Older models have these settings in their config, partly in that of the decoder.
        settings: dict[str, Any] = {}
        for part in (self._decoder, self.settings):
            settings |= {key: value for key, value in part.items() if value is not None}
        if (self.path / GENERATION).is_file():
            settings |= {key: value for key, value in self._json(GENERATION).items() if value is not None}
        positions = self.positions
        if self._family.chat:
            settings["decoder_start_token_id"] = self.chat.start
            positions = positions and positions - self.longest_prompt + 1  # its last token is the start token
        length = self._family.length or USUAL_LENGTH
        return self._within(GENERATION, lambda: read_generation(settings, length=length, positions=positions))

    @cached_property
    def tokenizer(self) -> PretrainedTokenizer:
        """The tokenizer."""
        from captionkit.data.pretrained_tokenizer import PretrainedTokenizer

        spaced = self._family.chat and self.chat.begins_with_space
        return PretrainedTokenizer(self._backend, self.generation.special, begins_with_space=spaced)

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        from captionkit.data.tokenizer import read_backend

        paths.check_file(self.path / TOKENIZER, ModelError)
        return read_backend(self.path / TOKENIZER)

    @cached_property
    def chat(self) -> ChatPrompt:
        """What a model of a chat family is asked, in the folder's style."""
        from captionkit.inference.published.chat import ChatPrompt, image_length

        def made() -> ChatPrompt:
            return ChatPrompt(self.path, self._backend, self.style, image_length(self.path, self.settings))

        return self._within("", made)

    @cached_property
    def longest_prompt(self) -> int:
        """The most tokens of a chat family's prompt. Raises ModelError if the decoder has no positions for it."""
        from captionkit.inference.published.tiles import TileProcessor

        grid = self.preprocessing.largest_grid if isinstance(self.preprocessing, TileProcessor) else (0, 0)
        length = len(self.chat.ids(*grid))
        if self.positions is not None and length >= self.positions:
            found = f"its prompt has {length} tokens, its decoder {self.positions} positions"
            raise ModelError(f"{self.path}: {found}; get the model again")
        return length

    @cached_property
    def preprocessing(self) -> ImageProcessor | TileProcessor:
        """What to do to an image before the encoder sees it."""
        from captionkit.inference.published.image_processor import ImageProcessor
        from captionkit.inference.published.tiles import TileProcessor

        kind = TileProcessor if self._family.chat else ImageProcessor
        return self._within(PREPROCESSOR, lambda: kind.from_config(self._image_settings()))

    def _image_settings(self) -> Mapping[str, Any]:
        """Return the image processor's config; transformers 5 may store it within that of the processor."""
        if (self.path / PREPROCESSOR).is_file() or not (self.path / PROCESSOR_CONFIG).is_file():
            return self._json(PREPROCESSOR)
        found = self._json(PROCESSOR_CONFIG).get("image_processor")
        if not isinstance(found, Mapping):
            raise ModelError(f"{self.path}: has no {PREPROCESSOR}; get the model again")
        return found

    @cached_property
    def decoding(self) -> Decoding:
        """The decoding that the model's makers chose, or that `captionkit tune` stored."""
        from captionkit.inference.search import Decoding

        stored = self._tables.get("decoding")
        return self.generation.decoding if stored is None else Decoding.from_dict(stored)

    @cached_property
    def calibration(self) -> WordConfidence:
        """The curve from a word's probability to its confidence, as `captionkit calibrate` stored it."""
        return WordConfidence.from_dict(self._tables.get("calibration", {}))

    @cached_property
    def confidence(self) -> CaptionConfidence | None:
        """How likely a caption is right in the main thing; None where that was not fitted."""
        stored = self._tables.get("confidence")
        return None if stored is None else CaptionConfidence.from_dict(stored)

    @cached_property
    def _tables(self) -> Mapping[str, Any]:
        return read_tables(self.tables_path)

    @property
    def tables_path(self) -> Path:
        """Where captionkit stores what it fits to the model: beside the folder, never in it."""
        return tables_path(self.path, self.name, cached=in_hub_cache(self.path))

    def check_storable(self) -> None:
        """Refuse, before any work, what could not be stored. Raises CaptionkitError."""
        read_tables(self.tables_path)

    def store(self, tables: Mapping[str, Any]) -> Path:
        """Store tables such as "calibration" and "decoding" and return the file. Raises CaptionkitError."""
        write_tables(self.tables_path, {**self._tables, **tables})
        return self.tables_path

    @property
    def positions(self) -> int | None:
        """The number of tokens that the decoder has positions for; None if its config does not say."""
        return self._number("n_positions", "max_position_embeddings", "max_target_positions")

    @property
    def _decoder(self) -> Mapping[str, Any]:
        return self._part("text_config") or self._part("decoder")

    @property
    def heads(self) -> Heads:
        """The number of the decoder's attention heads, and their size."""
        asking = self._number("decoder_attention_heads", "n_head", "num_attention_heads") or 1
        width = self._number("d_model", "n_embd", "hidden_size") or asking
        # Several heads may share keys and values (Ainslie et al. 2023, arXiv 2305.13245).
        return {
            "heads": self._number("num_key_value_heads") or asking,
            "size": self._number("head_dim") or width // asking,
        }

    def _number(self, *names: str) -> int | None:
        """Return the first of these positive numbers that the decoder's config has."""
        values = (self._decoder.get(name) for name in names)
        return next((value for value in values if type(value) is int and value > 0), None)

    def _part(self, name: str) -> Mapping[str, Any]:
        found = self.settings.get(name)
        return found if isinstance(found, Mapping) else {}

    def _json(self, name: str) -> Mapping[str, Any]:
        return read_json(self.path / name)

    def _within(self, name: str, parse: Callable[[], Any]) -> Any:
        try:
            return parse()
        except ModelError as error:
            known = str(self.path) in str(error)
            raise ModelError(str(error) if known else f"{self.path / name}: {error}; get the model again") from None


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        if digest is None:  # Python 3.10
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
