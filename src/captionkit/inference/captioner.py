"""Captioner: a model folder and a runtime become sentences about images."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from captionkit.data.images import MAX_PIXELS, Source, describe, load_bytes, load_image
from captionkit.errors import CaptionkitError, ImageError, ModelError
from captionkit.inference.confidence import check_confidence, told
from captionkit.inference.model_folder import ModelFolder
from captionkit.inference.search import Constraints, Decoding, Hypothesis, State, Stepper, search
from captionkit.inference.word_constraints import constraints_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captionkit.data.tokenizer import Text

#: images that go through the model together
BATCH = 16
_READERS = 2


@dataclass(frozen=True)
class Word:
    """A word of a caption."""

    text: str
    #: how likely people, too, used the word of this image, 0..1 (see captionkit.inference.calibration)
    confidence: float
    #: natural logarithm of the model's probability of the word, given the image and the words before it
    log_prob: float
    #: where the model looked while it chose the word: [rows, columns], the cells of the grid, summing to 1; mostly a
    #: view of the caption's
    attention: NDArray[np.float32] = field(repr=False)

    def to_dict(self, *, maps: bool = False) -> dict[str, Any]:
        """What the machine-readable output says of a word: with `maps`, its attention [rows][columns] too."""
        said: dict[str, Any] = {"text": self.text, "confidence": round(self.confidence, 4)}
        if maps:
            from captionkit.viz.saving import attention_lists

            said["attention"] = attention_lists(self.attention)
        return said


@dataclass(frozen=True)
class Caption:
    """A sentence about an image."""

    text: str
    #: what captions are ranked by: `log_prob` after length normalisation
    score: float
    #: natural logarithm of the model's probability of the whole sentence, a given prefix and its end included
    log_prob: float
    #: how likely it is right in the main thing, 0..1 (see captionkit.inference.confidence); of a model for which that
    #: was never fitted, the mean of the words' confidences: the share of them that people are expected to have used as
    #: well
    confidence: float
    words: tuple[Word, ...] = field(repr=False)
    tokens: tuple[int, ...] = field(repr=False)
    #: attention for each token: [tokens, rows, columns]
    attention: NDArray[np.float32] = field(repr=False)
    #: the next best captions, if more than one was asked for
    alternatives: tuple[Caption, ...] = field(default=(), repr=False)
    #: whether somebody should look at it, since its confidence is below what was asked for; None: nothing was asked for
    review: bool | None = None

    def __str__(self) -> str:
        return self.text

    def to_dict(self, *, maps: bool = False) -> dict[str, Any]:
        """What the machine-readable output says of a caption, with `maps` also where it looked; no alternatives."""
        return {
            "text": self.text,
            "log_prob": round(self.log_prob, 4),
            "confidence": round(self.confidence, 4),
            **({} if self.review is None else {"review": self.review}),
            "words": [word.to_dict(maps=maps) for word in self.words],
        }


@dataclass(frozen=True)
class Outcome:
    """What became of one image: a caption, or an error that says why not."""

    source: Source
    caption: Caption | None
    error: str = ""
    #: milliseconds to open, encode and decode this image (its share, where several went together)
    ms: dict[str, float] = field(default_factory=dict)
    #: what is odd about the image's file, although it could be captioned
    note: str = ""

    @property
    def captions(self) -> list[Caption]:
        """The captions, best first."""
        return [self.caption, *self.caption.alternatives] if self.caption else []

    def reviewed(self, min_confidence: float | None) -> Outcome:
        """The same, with every caption told whether it needs a `review`; None asks for none."""
        if self.caption is None or min_confidence is None:
            return self
        best, *others = (replace(one, review=one.confidence < min_confidence) for one in self.captions)
        return replace(self, caption=replace(best, alternatives=tuple(others)))

    def to_dict(self, path: str, *, maps: bool = False) -> dict[str, Any]:
        """The machine-readable line of an image that came as `path`; with `maps`, also where the model looked."""
        if self.caption is None:
            return {"path": path, "error": self.error}
        record = {
            "path": path,
            "captions": [caption.to_dict(maps=maps) for caption in self.captions],
            **({} if self.caption.review is None else {"review": self.caption.review}),
            "ms": {stage: round(value, 2) for stage, value in self.ms.items()},
        }
        return {**record, "note": self.note} if self.note else record


@dataclass(frozen=True)
class Opened:
    """An image ready for the model, or the reason why it is not."""

    source: Source
    #: float32 [3, height, width], or uint8 [height, width, 4]; None where it could not be opened
    pixels: NDArray[Any] | None
    error: ImageError | None
    #: milliseconds that opening took
    ms: float
    #: what is odd about its file, although it could be opened
    note: str = ""


class Captioner:
    """Describes images. Make one with `captionkit.load`; it may be used from several threads."""

    def __init__(self, folder: ModelFolder, stepper: Stepper) -> None:
        self.folder = folder
        self.stepper = stepper
        self.text = folder.text
        self.preprocessing = folder.preprocessing
        self.decoding = folder.decoding

    @property
    def sure_from(self) -> float | None:
        """The confidence below which a caption is as likely false as not; None where no such claim can be made."""
        return self.folder.confidence.sure_from if self.folder.confidence else None

    @overload
    def caption(self, images: list[Source] | tuple[Source, ...], **decoding: Any) -> list[Caption]: ...
    @overload
    def caption(self, images: Source, **decoding: Any) -> Caption: ...
    def caption(self, images: Source | Sequence[Source], **decoding: Any) -> Caption | list[Caption]:
        """Describe an image, or each of a list: paths, bytes, binary files, PIL images or arrays.

        `decoding` overrides fields of `captionkit.Decoding`, for instance beam, temperature, prefix or words; with
        `min_confidence`, 0 to 1, captions below it have `review` set. Raises ImageError at the first image that
        cannot be captioned; `stream` goes on instead.
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
        batch: int = BATCH,
        min_confidence: float | None = None,
        **decoding: Any,
    ) -> Iterator[Outcome]:
        """Describe images one after another, in order, `batch` at a time; a bad one becomes an Outcome with an error.

        The next images are read and encoded while captions are told. With `min_confidence`, 0 to 1, captions below it
        have `review` set, and the others have it False. Raises CaptionkitError for settings that do not fit together,
        and for a word that captions must contain but that is not in the vocabulary.
        """
        if batch < 1:
            raise CaptionkitError(f"batch is {batch}; use a whole number from 1")
        check_confidence(min_confidence)
        for outcome in self._stream(sources, batch, decoding):
            yield outcome.reviewed(min_confidence)

    def _stream(self, sources: Iterable[Source], batch: int, decoding: dict[str, Any]) -> Iterator[Outcome]:
        chosen = replace(self.decoding, **decoding)
        constraints = constraints_of(chosen, self.text)
        waiting = iter(sources)
        first = list(islice(waiting, batch))
        if len(first) == 1:
            following = list(islice(waiting, 1))
            if not following:  # an image alone has nothing to be read beside; threads would only delay it
                yield from self._describe(_Encoded(self.stepper, [self.open(first[0])]), chosen, constraints)
                return
            waiting = chain(following, waiting)
        with (
            ThreadPoolExecutor(_READERS, thread_name_prefix="captionkit-read") as readers,
            ThreadPoolExecutor(1, thread_name_prefix="captionkit-encode") as encoder,
        ):
            ahead = self._go_ahead(readers, encoder, first)
            while ahead:
                encoded, ahead = ahead, self._go_ahead(readers, encoder, islice(waiting, batch))
                yield from self._describe(encoded.result(), chosen, constraints)

    def _go_ahead(
        self, readers: ThreadPoolExecutor, encoder: ThreadPoolExecutor, sources: Iterable[Source]
    ) -> Future[_Encoded] | None:
        """Begin to open and to encode images; None where there are none."""
        opening = [readers.submit(self.open, source) for source in sources]
        if not opening:
            return None
        return encoder.submit(lambda: _Encoded(self.stepper, [future.result() for future in opening]))

    def open(self, source: Source, *, max_pixels: int = MAX_PIXELS) -> Opened:
        """Decode an image and make it what the model takes; may run in many threads while `describe` runs in one."""
        start = time.perf_counter()
        load = load_bytes if getattr(self.stepper, "takes_bytes", False) else load_image
        pixels, error = None, None
        notes: list[str] = []
        try:
            pixels = load(source, self.preprocessing, max_pixels=max_pixels, notes=notes)
        except ImageError as caught:
            error = caught
        return Opened(source, pixels, error, _milliseconds_since(start), "; ".join(notes))

    def describe(self, opened: Sequence[Opened], decoding: Decoding) -> list[Outcome]:
        """Describe opened images, all of them in one batch, in order. Raises CaptionkitError as `stream` does."""
        return list(self._describe(_Encoded(self.stepper, opened), decoding, constraints_of(decoding, self.text)))

    def examine(
        self, opened: Sequence[Opened], decoding: Decoding
    ) -> Iterator[tuple[Outcome, NDArray[np.float32] | None]]:
        """What `describe` gives, each with the means [D] of the encoder that confidence is fitted on, or None."""
        encoded = _Encoded(self.stepper, opened)
        overviews = iter(encoded.overviews())
        for outcome in self._describe(encoded, decoding, constraints_of(decoding, self.text)):
            yield outcome, next(overviews) if outcome.ms else None

    def _describe(self, encoded: _Encoded, decoding: Decoding, constraints: Constraints) -> Iterator[Outcome]:
        start, many = time.perf_counter(), len(encoded.images)
        hypotheses = search(
            encoded,
            encoded.images,
            decoding,
            bos_id=self.text.bos_id,
            eos_id=self.text.eos_id,
            banned=self.text.never_generated,
            constraints=constraints,
        )
        judge = self.folder.confidence
        overviews = encoded.overviews() if judge and judge.image else repeat(None)
        found = zip(hypotheses, overviews, strict=False)
        decode = _milliseconds_since(start)
        for picture in encoded.opened:
            source = picture.source
            if picture.pixels is None:
                yield Outcome(source, None, str(picture.error))
                continue
            share = {"open": picture.ms, "encode": encoded.ms / many, "decode": decode / many}
            some, overview = next(found)
            captions = [self._caption_of(hypothesis, overview) for hypothesis in some]
            if not captions:
                yield Outcome(source, None, f"{describe(source)}: {_why_none(decoding)}", ms=share)
                continue
            best = replace(captions[0], alternatives=tuple(captions[1:]))
            yield Outcome(source, best, ms=share, note=picture.note)

    def _caption_of(self, hypothesis: Hypothesis, overview: NDArray[np.float32] | None) -> Caption:
        tokens = tuple(hypothesis.tokens.tolist())
        rows, columns = self.folder.grid
        if hypothesis.attention.shape[1] != rows * columns:
            cells = hypothesis.attention.shape[1]
            raise ModelError(f"{self.folder.path}: its grid is given as {rows} x {columns}, but has {cells} cells")
        maps = hypothesis.attention.reshape(len(tokens), *self.folder.grid)  # [L,G] -> [L,rows,columns]
        spoken = [*spoken_words(self.text, hypothesis)]
        log_probs = np.array([log_prob for *_, log_prob in spoken])  # [words]
        confidences = self.folder.calibration(np.exp(log_probs)).tolist()
        words = tuple(
            # [L,rows,columns] -> [n,rows,columns] -> [rows,columns]; most words are one token
            Word(text, confidence, log_prob, maps[at[0]] if len(at) == 1 else maps[at].mean(0))
            for (text, at, log_prob), confidence in zip(spoken, confidences, strict=True)
        )
        return Caption(
            text=self.text.decode(tokens),
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
        overview: NDArray[np.float32] | None,
    ) -> float:
        """Of a caption: that of its words, and what is known besides. Of a caption without a word, 0."""
        if not confidences:
            return 0.0
        judge = self.folder.confidence
        if judge is None or (judge.image and overview is None):  # a stepper that gives no overview can be any
            return sum(confidences) / len(confidences)
        try:
            return judge(told(log_probs, hypothesis.log_prob, hypothesis.attention), overview)
        except ModelError as error:
            raise ModelError(f"{self.folder.path}: {error}") from None


def spoken_words(text: Text, hypothesis: Hypothesis) -> Iterator[tuple[str, list[int], float]]:
    """The words of a hypothesis, each with the places of its tokens and the log-probability of these."""
    log_probs = hypothesis.token_log_probs.tolist()
    for word, positions in text.words(hypothesis.tokens.tolist()):
        yield word, positions, sum(log_probs[position] for position in positions)


class _Encoded:
    """Opened images of which the good ones have been encoded: a stepper that begins with what came of it."""

    def __init__(self, stepper: Stepper, opened: Sequence[Opened]) -> None:
        self.opened, self._stepper = opened, stepper
        good = [picture.pixels for picture in opened if picture.pixels is not None]
        self.images = _batch(good)
        self.step, self.keep = stepper.step, getattr(stepper, "keep", None)
        start = time.perf_counter()
        self._state = stepper.begin(self.images) if good else None
        #: milliseconds that it took
        self.ms = _milliseconds_since(start)

    def overviews(self) -> Sequence[NDArray[np.float32] | None]:
        """What the stepper's `overview` says of each good image, [D]; None where it has none."""
        overview = getattr(self._stepper, "overview", None)
        found = overview(self._state) if overview and len(self.images) else None
        return [None] * len(self.images) if found is None else list(found)

    def begin(self, images: NDArray[Any]) -> State:
        return self._state


def _batch(images: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Images of one shape [...] as [B,...]; one alone is not copied."""
    if len(images) == 1:
        return images[0][None]
    return np.stack(images) if images else np.empty((0, 3, 0, 0), np.float32)


def _why_none(decoding: Decoding) -> str:
    if decoding.words:
        words = ", ".join(map(repr, decoding.words))
        way_out = "raise max_length, lower no_repeat or ask for less"
        return f"no caption of at most {decoding.max_length} words contains {words}; {way_out}"
    if decoding.has_text:
        return "no caption is possible with this prefix and these banned words; ban fewer"
    return "the model finds no caption; check its weights"


def _as_list(images: Source | Sequence[Source]) -> list[Source]:
    return list(images) if isinstance(images, (list, tuple)) else [images]  # type: ignore[list-item]


def _milliseconds_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
