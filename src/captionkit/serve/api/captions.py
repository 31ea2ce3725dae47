"""POST /v1/captions: captions with confidences, words and attention maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Outcome
from captionkit.inference.search import Decoding
from captionkit.publish.alt_text import MAX_CHARS, as_alt_text, search_options
from captionkit.serve.api.schemas import captions_body, failures
from captionkit.serve.errors import RefusalError, named, raise_if_all_failed
from captionkit.serve.logs import log_captions
from captionkit.serve.options import Options, RequestOptions, read_options, split_options
from captionkit.serve.replies import CaptionsAnswer, ImageAnswer, Reply
from captionkit.serve.request_parsing import parse_request
from captionkit.serve.service import Service


def captions(service: Service) -> APIRouter:
    """Return the router of the endpoint for `service`."""
    router = APIRouter(tags=["captions"])

    @router.post(
        "/v1/captions",
        summary="Caption one image or several",
        openapi_extra={"requestBody": captions_body()},
        response_model=CaptionsAnswer,
        responses=failures(),
    )
    async def create_captions(request: Request, options: Annotated[Options, Query()]) -> Response:
        """Send images as files in a form, as the request body, or as base64 in JSON. Options may be given in the query,
        the form or the JSON. In a request with several images, an image that cannot be captioned has an `error`
        instead of captions.
        """
        parsed = await parse_request(request, service.settings)
        wanted = read_options(parsed.options).over(split_options(options))
        decoding = service.decoding(**wanted.decoding)
        restyle, hypotheses = _style(wanted, decoding)
        if wanted.maps:
            service.captioner.check_attention()
        found = await service.caption_all([data for _, data in parsed.images], replace(decoding, **hypotheses))
        raise_if_all_failed(found)
        found = [restyle(outcome) if isinstance(outcome, Outcome) else outcome for outcome in found]
        names = [name for name, _ in parsed.images]
        results = [_result(*pair, maps=wanted.maps) for pair in zip(names, found, strict=True)]
        log_captions(request, found)
        return Reply(CaptionsAnswer(model=service.model, results=results))

    return router


def _style(wanted: RequestOptions, decoding: Decoding) -> tuple[Callable[[Outcome], Outcome], dict[str, Any]]:
    """Return what marks and words an outcome as asked, and the options of the search that this needs.

    Raises RefusalError (422) for a length without the style that has one.
    """
    if wanted.max_chars and not wanted.style:
        raise RefusalError(422, "max_chars: goes with style alt; send both, or leave it out")

    def restyle(outcome: Outcome) -> Outcome:
        reviewed = outcome.reviewed(wanted.min_confidence)
        if not wanted.style:
            return reviewed
        return as_alt_text(reviewed, max_chars=wanted.max_chars or MAX_CHARS, wanted=decoding.num_captions)

    return restyle, search_options(decoding) if wanted.style else {}


def _result(name: str, outcome: Outcome | CaptionkitError, *, maps: bool) -> ImageAnswer:
    if isinstance(outcome, CaptionkitError):
        return ImageAnswer(path=name, error=named(outcome, name))
    return ImageAnswer(**outcome.to_dict(name, maps=maps))
