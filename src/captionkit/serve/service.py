"""The captioning service: one queue shared by the endpoints and the web page."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any

from captionkit.data.images import open_image
from captionkit.errors import CaptionkitError, ImageError
from captionkit.inference.captioner import Captioner, Opened, Outcome
from captionkit.inference.search import Decoding
from captionkit.inference.word_constraints import constraints_of
from captionkit.serve.batching import Batcher
from captionkit.serve.errors import BusyError, RequestTimeoutError
from captionkit.serve.metrics import Metrics
from captionkit.serve.occupancy import Occupancy
from captionkit.serve.settings import Settings
from captionkit.viz.page import PHOTO_SIDE
from captionkit.viz.rendering import small_jpeg

#: the largest values of a request's decoding options, so that one request cannot occupy the model for minutes
CEILINGS = {"num_beams": 50, "num_captions": 50, "min_length": 100, "max_length": 100}
#: maximum number of hypotheses per image (forced words multiply the beam), and per batch
_MAX_HYPOTHESES_PER_IMAGE, _MAX_HYPOTHESES_PER_BATCH = 100, 320
_OPENERS = 2


class Service:
    """Captions images for many callers at once.

    `caption` can be awaited from any task of the event loop in which `running` was entered.
    """

    def __init__(self, captioner: Captioner, settings: Settings, occupancy: Occupancy | None = None) -> None:
        """Take a captioner and, in one of several processes, what they know of each other."""
        self.captioner, self.settings = captioner, settings
        self.model = captioner.folder.path.name
        self.occupancy = occupancy or Occupancy()
        self.metrics = Metrics(self.occupancy)
        self._batching: Batcher[Decoding, Opened, Outcome] = Batcher(self._describe, self._most)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the worker inside the context; captions can be requested only there."""
        with ThreadPoolExecutor(_OPENERS, thread_name_prefix="captionkit-open") as self._openers:
            worker = asyncio.create_task(self._batching.run())
            try:
                yield
            finally:
                worker.cancel()
                with suppress(asyncio.CancelledError):
                    await worker

    def count_tokens(self, text: str) -> int:
        """Return the number of the model's tokens in a text, without those for begin and end."""
        return len(self.captioner.tokenizer.backend.encode(text, add_special_tokens=False).ids)

    @property
    def ready(self) -> bool:
        """Whether the queue has room for another image."""
        return self.occupancy.images.total < self.settings.max_queue

    def decoding(self, **options: Any) -> Decoding:
        """Return the model's default decoding with `options` changed. Raises CaptionkitError for invalid options."""
        decoding = replace(self.captioner.decoding, **options)
        for name, most in CEILINGS.items():
            if getattr(decoding, name) > most:
                raise CaptionkitError(f"{name} is {getattr(decoding, name)}, but this service takes at most {most}")
        if decoding.has_text:
            constraints_of(decoding, self.captioner.tokenizer)
        if _hypotheses(decoding) > _MAX_HYPOTHESES_PER_IMAGE:
            raise CaptionkitError(
                f"{len(decoding.force_words)} words with a beam of {decoding.num_beams} are more than this service "
                "takes; lower num_beams or ask for fewer words"
            )
        return decoding

    async def caption(self, image: bytes, decoding: Decoding | None = None) -> Outcome:
        """Caption one image, given as the bytes of its file.

        Raises BusyError (429) if the queue is full, RequestTimeoutError (504) after the timeout, and
        ImageTooLargeError (413) or
        ImageError (422) if the image cannot be captioned.
        """
        found = (await self.caption_all([image], decoding))[0]
        if isinstance(found, CaptionkitError):
            raise found
        return found

    async def caption_all(
        self, images: Sequence[bytes | CaptionkitError], decoding: Decoding | None = None
    ) -> list[Outcome | CaptionkitError]:
        """Caption images; return for each, in order, an outcome with captions or an error.

        An error among `images`, for an image that could not be read, is returned in its place. Raises BusyError and
        RequestTimeoutError for the request as a whole.
        """
        with self._admitted(len(images)):
            chosen = decoding or self.captioner.decoding
            work = [asyncio.ensure_future(self._caption(image, chosen)) for image in images]
            try:
                done, late = await asyncio.wait(work, timeout=self.settings.timeout)
            finally:
                for task in work:
                    task.cancel()
            failures = [task.exception() for task in done]  # of all tasks, or asyncio logs the unretrieved ones
            if late:
                self.metrics.images.labels("late").inc(len(late))
                raise RequestTimeoutError(self.settings.timeout)
            for failure in filter(None, failures):
                raise failure
            return [task.result() for task in work]

    @contextmanager
    def _admitted(self, images: int) -> Iterator[None]:
        most = self.settings.max_queue
        inside = self.occupancy.images
        if not inside.add(images, most):
            self.metrics.images.labels("refused").inc(images)
            if images > most:
                raise CaptionkitError(f"{images} images are more than the {most} that may wait; send fewer")
            raise BusyError(f"{inside.total} images wait already", self._seconds_to_wait())
        try:
            yield
        finally:
            inside.remove(images)

    def _seconds_to_wait(self) -> int:
        """Estimate the time that the workers need for the current queue, from 1 to 60 seconds."""
        alone = self.occupancy.images.total * self.metrics.seconds_per_image
        return min(60, max(1, math.ceil(alone / self.settings.workers)))

    async def _caption(self, image: bytes | CaptionkitError, decoding: Decoding) -> Outcome | CaptionkitError:
        if isinstance(image, CaptionkitError):
            self.metrics.images.labels("unusable").inc()
            return image
        loop = asyncio.get_running_loop()
        opened = await loop.run_in_executor(self._openers, self._open, image)
        if opened.error is not None:
            self.metrics.images.labels("unusable").inc()
            return opened.error
        outcome = await self._batching.submit(decoding, opened)
        if outcome.caption is None:
            self.metrics.images.labels("uncaptioned").inc()
            return ImageError(outcome.error)
        self.metrics.captioned(outcome)
        return outcome

    async def preview(self, image: bytes) -> bytes:
        """Return an image, given as the bytes of its file, as a JPEG of at most PHOTO_SIDE pixels a side.

        Raises BusyError (429), ImageTooLargeError (413) or ImageError (422), as `caption` does.
        """
        with self._admitted(1):
            return await asyncio.get_running_loop().run_in_executor(self._openers, self._preview, image)

    def _preview(self, image: bytes) -> bytes:
        opened = open_image(image, target=(PHOTO_SIDE, PHOTO_SIDE), max_pixels=self.settings.max_pixels)
        return small_jpeg(opened, PHOTO_SIDE)[0]

    def _open(self, image: bytes) -> Opened:
        opened = self.captioner.open(image, max_pixels=self.settings.max_pixels)
        return replace(opened, source=b"")  # drop the file's bytes while its pixels are queued

    def _describe(self, decoding: Decoding, opened: Sequence[Opened]) -> list[Outcome]:
        with self.metrics.batch(len(opened)):
            return self.captioner.describe(opened, decoding)

    def _most(self, decoding: Decoding) -> int:
        return max(1, min(self.settings.max_batch_size, _MAX_HYPOTHESES_PER_BATCH // _hypotheses(decoding)))


def _hypotheses(decoding: Decoding) -> int:
    """Return the number of hypotheses per image, assuming that each forced word is one token."""
    forced = sum(len(phrase.split()) for phrase in decoding.force_words)
    return decoding.num_captions if decoding.temperature else decoding.num_beams * (1 + forced)
