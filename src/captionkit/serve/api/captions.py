"""POST /v1/captions: captions with confidences, words and attention maps."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Outcome
from captionkit.serve.api.schemas import captions_body, failures
from captionkit.serve.errors import named, raise_if_all_failed
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
        if wanted.maps:
            service.captioner.check_attention()
        found = await service.caption_all([data for _, data in parsed.images], decoding)
        raise_if_all_failed(found)
        names = [name for name, _ in parsed.images]
        results = [_result(*pair, wanted) for pair in zip(names, found, strict=True)]
        log_captions(request, found)
        return Reply(CaptionsAnswer(model=service.model, results=results))

    return router


def _result(name: str, outcome: Outcome | CaptionkitError, wanted: RequestOptions) -> ImageAnswer:
    if isinstance(outcome, CaptionkitError):
        return ImageAnswer(path=name, error=named(outcome, name))
    return ImageAnswer(**outcome.reviewed(wanted.min_confidence).to_dict(name, maps=wanted.maps))
