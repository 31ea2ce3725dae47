"""Captions for everything that asks while the service runs: the endpoints and the page share one queue."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any

from captionkit.errors import CaptionkitError, ImageError
from captionkit.inference.captioner import Captioner, Opened, Outcome
from captionkit.inference.search import Decoding
from captionkit.inference.word_constraints import constraints_of
from captionkit.serve.batching import Batching
from captionkit.serve.errors import BusyError, LateError
from captionkit.serve.metrics import Meters
from captionkit.serve.settings import Settings

#: the largest values of a request's decoding: the model is everybody's, so nobody gets it for minutes
CEILINGS = {"beam": 50, "num_captions": 50, "min_length": 100, "max_length": 100}
#: hypotheses of an image, where forced words multiply its beam, and of all images that go through the model together
_OF_A_PICTURE, _OF_A_BATCH = 100, 320
_OPENERS = 2


class Service:
    """Captions images for many callers at once.

    `caption` may be awaited from any task of the event loop in which `running` was entered.
    """

    def __init__(self, captioner: Captioner, settings: Settings) -> None:
        self.captioner, self.settings = captioner, settings
        self.model = captioner.folder.path.name
        self.meters = Meters(lambda: self._inside)
        self._inside = 0
        self._batching: Batching[Decoding, Opened, Outcome] = Batching(self._describe, self._most)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time in which captions are made."""
        with ThreadPoolExecutor(_OPENERS, thread_name_prefix="captionkit-open") as self._openers:
            worker = asyncio.create_task(self._batching.run())
            try:
                yield
            finally:
                worker.cancel()
                with suppress(asyncio.CancelledError):
                    await worker

    @property
    def ready(self) -> bool:
        """Whether an image would be taken now."""
        return self._inside < self.settings.max_queue

    def decoding(self, **options: Any) -> Decoding:
        """The model's own decoding with some fields changed. CaptionkitError where they do not fit."""
        decoding = replace(self.captioner.decoding, **options)
        for name, most in CEILINGS.items():
            if getattr(decoding, name) > most:
                raise CaptionkitError(f"{name} is {getattr(decoding, name)}, but this service takes at most {most}")
        if decoding.has_text:
            constraints_of(decoding, self.captioner.text)
        if _hypotheses(decoding) > _OF_A_PICTURE:
            raise CaptionkitError(
                f"{len(decoding.words)} words with a beam of {decoding.beam} are more than this service takes; "
                "lower beam or ask for fewer words"
            )
        return decoding

    async def caption(self, picture: bytes, decoding: Decoding | None = None) -> Outcome:
        """Caption one image, the bytes of its file.

        Raises BusyError (429) where too many wait, LateError (504) where it takes too long, and for an image that has
        no caption ImageTooLargeError (413) or ImageError (422).
        """
        found = (await self.caption_all([picture], decoding))[0]
        if isinstance(found, CaptionkitError):
            raise found
        return found

    async def caption_all(
        self, pictures: Sequence[bytes | CaptionkitError], decoding: Decoding | None = None
    ) -> list[Outcome | CaptionkitError]:
        """Caption images, in order: an outcome with a caption for each, or the error that says why not.

        An error among the images, which says why there are no bytes, stays in its place.

        Raises BusyError and LateError for all of them together.
        """
        with self._admitted(len(pictures)):
            chosen = decoding or self.captioner.decoding
            work = [asyncio.ensure_future(self._caption(picture, chosen)) for picture in pictures]
            try:
                done, late = await asyncio.wait(work, timeout=self.settings.timeout)
            finally:
                for task in work:
                    task.cancel()
            failures = [task.exception() for task in done]  # all are asked, or asyncio tells of them itself
            if late:
                self.meters.pictures.labels("late").inc(len(late))
                raise LateError(self.settings.timeout)
            for failure in filter(None, failures):
                raise failure
            return [task.result() for task in work]

    @contextmanager
    def _admitted(self, pictures: int) -> Iterator[None]:
        most = self.settings.max_queue
        if self._inside + pictures > most:
            self.meters.pictures.labels("refused").inc(pictures)
            if pictures > most:
                raise CaptionkitError(f"{pictures} images are more than the {most} that may wait; send fewer")
            raise BusyError(f"{self._inside} images wait already", self._seconds_to_wait())
        self._inside += pictures
        try:
            yield
        finally:
            self._inside -= pictures

    def _seconds_to_wait(self) -> int:
        """How long the model needs for what is waiting now."""
        return min(60, max(1, math.ceil(self._inside * self.meters.seconds_a_picture)))

    async def _caption(self, picture: bytes | CaptionkitError, decoding: Decoding) -> Outcome | CaptionkitError:
        if isinstance(picture, CaptionkitError):
            self.meters.pictures.labels("unusable").inc()
            return picture
        loop = asyncio.get_running_loop()
        opened = await loop.run_in_executor(self._openers, self._open, picture)
        if opened.error is not None:
            self.meters.pictures.labels("unusable").inc()
            return opened.error
        outcome = await self._batching.submit(decoding, opened)
        if outcome.caption is None:
            self.meters.pictures.labels("uncaptioned").inc()
            return ImageError(outcome.error)
        self.meters.captioned(outcome)
        return outcome

    def _open(self, picture: bytes) -> Opened:
        opened = self.captioner.open(picture, max_pixels=self.settings.max_pixels)
        return replace(opened, source=b"")  # the file is not kept while its pixels wait

    def _describe(self, decoding: Decoding, opened: Sequence[Opened]) -> list[Outcome]:
        with self.meters.batch(len(opened)):
            return self.captioner.describe(opened, decoding)

    def _most(self, decoding: Decoding) -> int:
        return max(1, min(self.settings.max_batch, _OF_A_BATCH // _hypotheses(decoding)))


def _hypotheses(decoding: Decoding) -> int:
    """Hypotheses of one image, by the number of words where a token is one."""
    forced = sum(len(phrase.split()) for phrase in decoding.words)
    return decoding.num_captions if decoding.temperature else decoding.beam * (1 + forced)
