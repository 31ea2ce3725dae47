"""The page's requests: caption photos that gradio has stored, through the same queue as all other requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from captionkit.data.images import open_image
from captionkit.errors import CaptionkitError
from captionkit.inference.caption_confidence import check_confidence
from captionkit.inference.captioner import Outcome
from captionkit.inference.search import Decoding
from captionkit.serve.logs import LOG
from captionkit.serve.service import Service
from captionkit.serve.ui.cards import error_card, nameless, photo_card
from captionkit.viz.page import PHOTO_SIDE, escaped

#: maximum number of photos per request
MOST_PHOTOS = 32
#: number of photos captioned between updates of the page
_SHOWN_AT_ONCE = 4

#: (name, path) of photos
Given = Sequence[tuple[str, str]]


async def captioned(
    service: Service, given: Given, options: dict[str, Any], min_confidence: float | None
) -> AsyncIterator[tuple[str, list[str]]]:
    """Yield the status line, as HTML, and the cards so far, until every photo has its card.

    Captions with a confidence below `min_confidence` are marked "not sure".
    """
    if not given:
        yield "Choose a photo first.", []
        return
    taken = given[:MOST_PHOTOS]
    yield f"Captioning {_photos(len(taken))} …", []
    cards: list[str] = []
    found: list[Outcome | CaptionkitError] = []
    for start in range(0, len(taken), _SHOWN_AT_ONCE):
        part = taken[start : start + _SHOWN_AT_ONCE]
        try:
            images, outcomes = await _outcomes(service, part, service.decoding(**options), min_confidence)
        except CaptionkitError as error:  # applies to all of them, such as a full queue or a timeout
            yield f"{_photos(len(taken) - start)} not captioned: {escaped(str(error))}", cards
            return
        for (name, _), image, outcome in zip(part, images, outcomes, strict=True):
            cards.append(await asyncio.to_thread(_card, service, name, image, outcome, len(cards)))
        found += outcomes
        if len(cards) < len(taken):
            yield f"{len(cards)} of {_photos(len(taken))} …", cards
    yield _summary(found, len(given) - len(taken)), cards


async def records_of(
    service: Service, given: Given, options: dict[str, Any], *, maps: bool, min_confidence: float | None = None
) -> list[dict[str, Any]]:
    """Return the machine-readable record of each photo. Raises CaptionkitError for invalid settings.

    The key is "name" here instead of "path", because gradio's client treats anything with a "path" as a file to fetch.
    """
    if len(given) > MOST_PHOTOS:
        raise CaptionkitError(f"{len(given)} photos are more than the {MOST_PHOTOS} of one go; send fewer")
    check_confidence(min_confidence)
    _, found = await _outcomes(service, given, service.decoding(**options), min_confidence)
    records = []
    for (name, _), outcome in zip(given, found, strict=True):
        if isinstance(outcome, CaptionkitError):
            record: dict[str, Any] = {"error": f"{name}: {nameless(outcome)}"}
        else:
            record = outcome.to_dict(name, maps=maps)
        records.append({"name": name} | {key: value for key, value in record.items() if key != "path"})
    return records


async def _outcomes(
    service: Service, given: Given, decoding: Decoding, min_confidence: float | None
) -> tuple[list[bytes], list[Outcome | CaptionkitError]]:
    """Return the photos' bytes and their outcomes; every outcome is logged."""
    images = await asyncio.to_thread(_read, [path for _, path in given])
    found = await service.caption_all(images, decoding)
    for (name, _), outcome in zip(given, found, strict=True):
        LOG.info("page %r: %s", name, _line(outcome))
    return images, [one.reviewed(min_confidence) if isinstance(one, Outcome) else one for one in found]


def _read(paths: Sequence[str]) -> list[bytes]:
    try:
        return [Path(path).read_bytes() for path in paths]
    except OSError:
        raise CaptionkitError("uploads are kept for an hour; choose the photos again") from None


def _card(service: Service, name: str, image: bytes, outcome: Outcome | CaptionkitError, number: int) -> str:
    if isinstance(outcome, CaptionkitError):
        return error_card(name, outcome)
    photo = open_image(image, target=(PHOTO_SIDE, PHOTO_SIDE), max_pixels=service.settings.max_pixels)
    return photo_card(name, photo, outcome, service.captioner.preprocessing, number)


def _line(outcome: Outcome | CaptionkitError) -> str:
    return nameless(outcome) if isinstance(outcome, CaptionkitError) else str(outcome.caption)


def _summary(found: Sequence[Outcome | CaptionkitError], left: int) -> str:
    """Return the final status line, as HTML; for a single photo it includes the caption for screen readers."""
    good = sum(isinstance(outcome, Outcome) for outcome in found)
    lines = [f"{'' if good == len(found) else f'{good} of '}{_photos(len(found))} captioned"]
    if left:
        lines.append(f"{left} more left out: {MOST_PHOTOS} are captioned at a time")
    if len(found) == 1:
        lines.append(f'<span class="ck-hidden">{escaped(_line(found[0]))}</span>')
    return ". ".join(lines)


def _photos(number: int) -> str:
    return f"{number} photo{'' if number == 1 else 's'}"
