"""Captioner: turns a model folder and a runtime into captions of images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from captionkit.data.images import (
    MAX_PIXELS,
    Box,
    Preprocessing,
    Source,
    describe,
    open_image,
    preprocess,
    preprocess_bytes,
)
from captionkit.errors import CaptionkitError, ImageError, ModelError
from captionkit.inference.caption_confidence import check_confidence, decoding_features, evidence_of
from captionkit.inference.model_folder import ModelFolder, copy_model, push_model
from captionkit.inference.search import Begun, Capability, Constraints, Decoding, Hypothesis, Overview, Stepper, search
from captionkit.inference.word_constraints import constraints_of
from captionkit.utils.deprecation import warn_renamed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from captionkit.data.tokenizer import Tokenizer
    from captionkit.inference.published.folder import PublishedFolder
    from captionkit.inference.published.image_processor import ImageProcessor
    from captionkit.inference.published.tiles import TileProcessor

#: default batch size
BATCH = 16
#: default number of threads that open images
READERS = 2


@dataclass(frozen=True)
class Word:
    """A word of a caption."""

    text: str
    #: probability that references of this image use the word too, 0..1 (see captionkit.inference.word_confidence)
    confidence: float
    #: natural logarithm of the model's probability of the word, given the image and the words before it
    log_prob: float
    #: attention over the grid cells for this word: [rows, columns], summing to 1; mostly a view of the caption's
    attention: NDArray[np.float32] = field(repr=False)

    def to_dict(self, *, maps: bool = False) -> dict[str, Any]:
        """Return the word for the machine-readable output; with `maps`, including its attention [rows][columns]."""
        said: dict[str, Any] = {"text": self.text, "confidence": round(self.confidence, 4)}
        if maps and self.attention.size:
            from captionkit.viz.attention_files import attention_lists

            said["attention"] = attention_lists(self.attention)
        return said


@dataclass(frozen=True)
class Caption:
    """A sentence about an image."""

    text: str
    #: the ranking score: `log_prob` after length normalisation
    score: float
    #: natural logarithm of the model's probability of the whole sentence, including a given prefix and the end token
    log_prob: float
    #: probability that the main statement is right, 0..1 (see captionkit.inference.caption_confidence); for a model
    #: without fitted confidence, the mean of the words' confidences: the expected share of words in the references
    confidence: float
    words: tuple[Word, ...] = field(repr=False)
    tokens: tuple[int, ...] = field(repr=False)
    #: attention map of each token: [tokens, rows, columns]
    attention: NDArray[np.float32] = field(repr=False)
    #: the next best captions, if more than one was asked for
    alternatives: tuple[Caption, ...] = field(default=(), repr=False)
    #: whether it needs review, since its confidence is below the given threshold; None if no threshold was given
    review: bool | None = None

    def __str__(self) -> str:
        return self.text

    def to_dict(self, *, maps: bool = False) -> dict[str, Any]:
        """Return the caption for the machine-readable output, without alternatives.

        With `maps`, including attention.
        """
        return {
            "text": self.text,
            "log_prob": round(self.log_prob, 4),
            "confidence": round(self.confidence, 4),
            **({} if self.review is None else {"review": self.review}),
            "words": [word.to_dict(maps=maps) for word in self.words],
        }


@dataclass(frozen=True)
class Outcome:
    """The result for one image: a caption, or an error message."""

    source: Source
    caption: Caption | None
    error: str = ""
    #: milliseconds to open, encode and decode this image (its share of a batch)
    ms: dict[str, float] = field(default_factory=dict)
    #: a problem with the image's file that did not prevent captioning
    note: str = ""
    #: left, top, right and bottom of the part that the model saw, as shares of the image's width and height
    region: Box | None = None

    @property
    def captions(self) -> list[Caption]:
        """Return the captions, best first."""
        return [self.caption, *self.caption.alternatives] if self.caption else []

    def reviewed(self, min_confidence: float | None) -> Outcome:
        """Return a copy with `review` set on every caption; None sets none."""
        if self.caption is None or min_confidence is None:
            return self
        best, *others = (replace(one, review=one.confidence < min_confidence) for one in self.captions)
        return replace(self, caption=replace(best, alternatives=tuple(others)))

    def to_dict(self, path: str, *, maps: bool = False) -> dict[str, Any]:
        """Return the machine-readable record of an image given as `path`.

        With `maps`, including attention and the region of the image that it covers.
        """
        if self.caption is None:
            return {"path": path, "error": self.error}
        record = {
            "path": path,
            "captions": [caption.to_dict(maps=maps) for caption in self.captions],
            **({} if self.caption.review is None else {"review": self.caption.review}),
            **({"region": [round(edge, 4) for edge in self.region]} if maps and self.region else {}),
            "ms": {stage: round(value, 2) for stage, value in self.ms.items()},
        }
        return {**record, "note": self.note} if self.note else record


@dataclass(frozen=True)
class Opened:
    """An image ready for the model, or the reason why it is not."""

    source: Source
    #: float32 [3, height, width], or uint8 [height, width, 4]; None if it could not be opened
    pixels: NDArray[Any] | None
    error: ImageError | None
    #: milliseconds taken to open it
    ms: float
    #: a problem with its file that did not prevent opening it
    note: str = ""
    #: left, top, right and bottom of the part that the model sees, as shares of the image's width and height
    region: Box | None = None


class Captioner:
    """Captions images. Create one with `captionkit.load`; it is thread-safe."""

    def __init__(self, folder: ModelFolder | PublishedFolder, stepper: Stepper) -> None:
        self.folder = folder
        self.stepper = stepper
        self.tokenizer = folder.tokenizer
        self.preprocessing = folder.preprocessing
        self._target, self._preprocess = _preprocessor(folder.preprocessing, as_bytes=stepper.takes_bytes)
        self.decoding = folder.decoding

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str] | None = None, **settings: Any) -> Captioner:
        """Load a model folder or a Hub id, or by default the bundled model; the same as `captionkit.load`."""
        from captionkit.inference.load import load

        return load(source, **settings)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Return what the model can do: "attention", "constraints", "prompt", and "confidence" once it is fitted."""
        fitted: tuple[Capability, ...] = ("confidence",) if self.folder.confidence else ()
        return self.stepper.capabilities.union(fitted)

    def check_attention(self) -> None:
        """Raise CaptionkitError, in a line, if the model has no attention maps to show."""
        if "attention" not in self.capabilities:
            raise CaptionkitError(f"{self.folder.name}: the model gives no attention maps; ask for none")

    def save_pretrained(self, path: str | os.PathLike[str]) -> Path:
        """Copy the checked model folder to `path` and return it.

        Raises CaptionkitError where something else than a model that captionkit wrote would be replaced.
        """
        return copy_model(self._own_folder(), path).path

    def push_to_hub(self, repo: str) -> str:
        """Upload the checked model folder to the Hugging Face Hub as `repo` ("owner/name"); returns its address."""
        return push_model(self._own_folder(), repo)

    def _own_folder(self) -> ModelFolder:
        if not isinstance(self.folder, ModelFolder):
            raise ModelError(f"{self.folder.name}: was published by others; copy its folder as it is")
        return self.folder

    @property
    def sure_from(self) -> float | None:
        """Return the confidence below which a caption is as likely wrong as right.

        None if the model has no fitted confidence.
        """
        return self.folder.confidence.sure_from if self.folder.confidence else None

    @overload
    def caption(self, images: list[Source] | tuple[Source, ...], **decoding: Any) -> list[Caption]: ...
    @overload
    def caption(self, images: Source, **decoding: Any) -> Caption: ...
    def caption(self, images: Source | Sequence[Source], **decoding: Any) -> Caption | list[Caption]:
        """Caption one image, or each of a list: paths, bytes, binary files, PIL images or arrays.

        `decoding` overrides fields of `captionkit.Decoding`, for instance num_beams, temperature, prefix or
        force_words; with `min_confidence`, 0 to 1, captions below it have `review` set. Raises ImageError at the first
        image that cannot be captioned; `stream` continues instead.
        """
        captions = []
        for outcome in self.stream(_as_list(images), **decoding):
            if outcome.caption is None:
                raise ImageError(outcome.error)
            captions.append(outcome.caption)
        return captions if isinstance(images, (list, tuple)) else captions[0]

    def stream(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int = BATCH,
        min_confidence: float | None = None,
        opener: Callable[[Any], Opened] | None = None,
        readers: int = READERS,
        **decoding: Any,
    ) -> Iterator[Outcome]:
        """Caption images in order, `batch_size` at a time; an image that fails gives an Outcome with an error.

        The next images are read and encoded while the current ones are decoded. With `min_confidence`, 0 to 1, `review`
        is True for captions below it and False for the others. `opener` opens a source in place of `open`, in one of
        `readers` threads; the sources may then be anything that it takes. Raises CaptionkitError for incompatible
        settings, and for a required word that is not in the vocabulary.
        """
        if "batch" in decoding:
            warn_renamed("batch", "batch_size")
            batch_size = decoding.pop("batch")
        if batch_size < 1:
            raise CaptionkitError(f"batch_size is {batch_size}; use a whole number from 1")
        check_confidence(min_confidence)
        for outcome in self._stream(sources, batch_size, opener or self.open, readers, decoding):
            yield outcome.reviewed(min_confidence)

    def _stream(
        self,
        sources: Iterable[Source],
        batch_size: int,
        opener: Callable[[Any], Opened],
        readers: int,
        decoding: dict[str, Any],
    ) -> Iterator[Outcome]:
        chosen = replace(self.decoding, **decoding)
        constraints = constraints_of(chosen, self.tokenizer)
        waiting = iter(sources)
        batch_size = self.limit_batch(batch_size, chosen)
        first = list(islice(waiting, batch_size))
        if len(first) == 1:
            following = list(islice(waiting, 1))
            if not following:  # a single image leaves nothing to overlap; threads would only add delay
                yield from self._describe(_Encoded(self.stepper, [opener(first[0])]), chosen, constraints)
                return
            waiting = chain(following, waiting)
        with (
            ThreadPoolExecutor(readers, thread_name_prefix="captionkit-read") as pool,
            ThreadPoolExecutor(1, thread_name_prefix="captionkit-encode") as encoder,
        ):
            go_ahead = partial(self._go_ahead, opener, pool, encoder)
            ahead = go_ahead(first)
            while ahead:
                encoded, ahead = ahead, go_ahead(islice(waiting, batch_size))
                yield from self._describe(encoded.result(), chosen, constraints)

    def _go_ahead(
        self,
        opener: Callable[[Any], Opened],
        readers: ThreadPoolExecutor,
        encoder: ThreadPoolExecutor,
        sources: Iterable[Source],
    ) -> Future[_Encoded] | None:
        """Start opening and encoding the next images; return None if there are none."""
        opening = [readers.submit(opener, source) for source in sources]
        if not opening:
            return None
        return encoder.submit(lambda: _Encoded(self.stepper, [future.result() for future in opening]))

    def open(self, source: Source, *, max_pixels: int = MAX_PIXELS) -> Opened:
        """Decode an image and preprocess it for the model; may run in many threads while `describe` runs in one."""
        start = time.perf_counter()
        pixels, error, region = None, None, None
        notes: list[str] = []
        try:
            image = open_image(source, target=self._target, max_pixels=max_pixels, notes=notes)
            pixels, region = self._preprocess(image), _shares(self.preprocessing.region(*image.size), image.size)
        except ImageError as caught:
            error = caught
        return Opened(source, pixels, error, _milliseconds_since(start), "; ".join(notes), region)

    def limit_batch(self, size: int, decoding: Decoding) -> int:
        """Return how many of `size` images may be decoded together; fewer if a model's hypotheses take much memory."""
        most: int | None = getattr(self.stepper, "max_hypotheses", None)
        if most is None:
            return size
        banks = 1 + sum(map(len, constraints_of(decoding, self.tokenizer).words))  # see constraint_bank
        kept = decoding.num_captions if decoding.temperature else decoding.num_beams * banks
        return min(size, max(1, most // kept))

    def describe(self, opened: Sequence[Opened], decoding: Decoding) -> list[Outcome]:
        """Caption opened images in order, as one batch if there is memory for it.

        Raises CaptionkitError as `stream` does.
        """
        return [outcome for outcome, _ in self._examine(opened, decoding, overviews=False)]

    def examine(self, opened: Sequence[Opened], decoding: Decoding) -> Iterator[tuple[Outcome, Overview | None]]:
        """Yield what `describe` returns, each with the image's features that confidence is fitted on, or None."""
        return self._examine(opened, decoding, overviews=True)

    def _examine(
        self, opened: Sequence[Opened], decoding: Decoding, *, overviews: bool
    ) -> Iterator[tuple[Outcome, Overview | None]]:
        constraints, size = constraints_of(decoding, self.tokenizer), self.limit_batch(len(opened), decoding)
        waiting = iter(opened)
        while part := list(islice(waiting, size)):
            encoded = _Encoded(self.stepper, part)
            found = iter(encoded.overviews()) if overviews else repeat(None)
            for outcome in self._describe(encoded, decoding, constraints):
                yield outcome, next(found) if outcome.ms else None

    def _describe(self, encoded: _Encoded, decoding: Decoding, constraints: Constraints) -> Iterator[Outcome]:
        start, many = time.perf_counter(), len(encoded.begun.images)
        hypotheses = search(self.stepper, encoded.begun, decoding, self.tokenizer.special, constraints=constraints)
        judge = self.folder.confidence
        overviews = encoded.overviews() if judge and judge.sees_images else repeat(None)
        found = zip(hypotheses, overviews, strict=False)
        decode = _milliseconds_since(start)
        for item in encoded.opened:
            source = item.source
            if item.pixels is None:
                yield Outcome(source, None, str(item.error))
                continue
            share = {"open": item.ms, "encode": encoded.ms / many, "decode": decode / many}
            some, overview = next(found)
            captions = [self._caption_of(hypothesis, overview) for hypothesis in some]
            if not captions:
                yield Outcome(source, None, f"{describe(source)}: {_why_none(decoding)}", ms=share)
                continue
            best = replace(captions[0], alternatives=tuple(captions[1:]))
            yield Outcome(source, best, ms=share, note=item.note, region=item.region)

    def _caption_of(self, hypothesis: Hypothesis, overview: Overview | None) -> Caption:
        tokens = tuple(hypothesis.tokens.tolist())
        rows, columns = self.folder.grid if hypothesis.attention.shape[1] else (0, 0)
        if hypothesis.attention.shape[1] != rows * columns:
            cells = hypothesis.attention.shape[1]
            raise ModelError(f"{self.folder.path}: its grid is given as {rows} x {columns}, but has {cells} cells")
        maps = hypothesis.attention.reshape(len(tokens), rows, columns)  # [L,G] -> [L,rows,columns]
        found = [*caption_words(self.tokenizer, hypothesis)]
        log_probs = np.array([log_prob for *_, log_prob in found])  # [words]
        confidences = self.folder.calibration(np.exp(log_probs)).tolist()
        words = tuple(
            # [L,rows,columns] -> [n,rows,columns] -> [rows,columns]; most words are one token
            Word(text, confidence, log_prob, maps[at[0]] if len(at) == 1 else maps[at].mean(0))
            for (text, at, log_prob), confidence in zip(found, confidences, strict=True)
        )
        return Caption(
            text=self.tokenizer.decode(tokens),
            score=hypothesis.score,
            log_prob=hypothesis.log_prob,
            confidence=self._confidence(log_probs, confidences, hypothesis, overview),
            words=words,
            tokens=tokens,
            attention=maps,
        )

    def _confidence(
        self,
        log_probs: NDArray[np.float64],
        confidences: Sequence[float],
        hypothesis: Hypothesis,
        overview: Overview | None,
    ) -> float:
        """Return a caption's confidence from its words and the fitted model; 0 for a caption without words."""
        if not confidences:
            return 0.0
        judge = self.folder.confidence
        if judge is None or (judge.sees_images and overview is None):
            return sum(confidences) / len(confidences)
        try:
            features = decoding_features(
                log_probs, hypothesis.log_prob, hypothesis.attention, evidence_of(overview, hypothesis.tokens)
            )
            return judge(features, overview and overview.means)
        except ModelError as error:
            raise ModelError(f"{self.folder.path}: {error}") from None


def _preprocessor(
    preprocessing: Preprocessing | ImageProcessor | TileProcessor, *, as_bytes: bool
) -> tuple[tuple[int, int] | None, Callable[[Image.Image], NDArray[Any]]]:
    """Return the [height, width] down to which a JPEG may be decoded, if any, and what preprocesses an opened image."""
    if isinstance(preprocessing, Preprocessing):
        target = preprocessing.height, preprocessing.width
        return target, partial(preprocess_bytes if as_bytes else preprocess, preprocessing=preprocessing)
    return None, preprocessing


def _shares(region: Box, size: tuple[int, int]) -> Box:
    """Return a region in pixels as shares of the image's width and height."""
    width, height = size
    left, top, right, bottom = region
    return left / width, top / height, right / width, bottom / height


def caption_words(tokenizer: Tokenizer, hypothesis: Hypothesis) -> Iterator[tuple[str, list[int], float]]:
    """Yield the words of a hypothesis, each with the positions of its tokens and their summed log-probability."""
    log_probs = hypothesis.token_log_probs.tolist()
    for word, positions in tokenizer.words(hypothesis.tokens.tolist()):
        yield word, positions, sum(log_probs[position] for position in positions)


class _Encoded:
    """Opened images whose readable ones are already encoded."""

    def __init__(self, stepper: Stepper, opened: Sequence[Opened]) -> None:
        self.opened, self._stepper = opened, stepper
        good = [item.pixels for item in opened if item.pixels is not None]
        images = batch_of(good)
        start = time.perf_counter()
        self.begun = Begun(stepper.begin(images) if good else None, images)
        #: milliseconds taken to encode them
        self.ms = _milliseconds_since(start)

    def overviews(self) -> Sequence[Overview | None]:
        """Return the stepper's `overview` of each readable image; None for each if the stepper has none."""
        state, images = self.begun
        found = self._stepper.overview(state) if len(images) else None
        if found is None:
            return [None] * len(images)
        means, evidence = found
        return [Overview(*one) for one in zip(means, repeat(None) if evidence is None else evidence, strict=False)]


def batch_of(images: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Stack images of one shape [...] to [B,...]; a single image is not copied.

    Images of several shapes, which models that see images in tiles take, become an array of arrays, [B].
    """
    if len(images) == 1:
        return images[0][None]
    if len({image.shape for image in images}) > 1:
        batch = np.empty(len(images), object)
        batch[:] = images
        return batch
    return np.stack(images) if images else np.empty((0, 3, 0, 0), np.float32)


def _why_none(decoding: Decoding) -> str:
    if decoding.force_words:
        words = ", ".join(map(repr, decoding.force_words))
        way_out = "raise max_length, lower no_repeat_ngram_size or ask for less"
        return f"no caption of at most {decoding.max_length} words contains {words}; {way_out}"
    if decoding.has_text:
        return "no caption is possible with this prefix and these banned words; ban fewer"
    return "the model finds no caption; check its weights"


def _as_list(images: Source | Sequence[Source]) -> list[Source]:
    return list(images) if isinstance(images, (list, tuple)) else [images]  # type: ignore[list-item]


def _milliseconds_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
