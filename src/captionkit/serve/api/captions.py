"""POST /v1/captions: captions with confidences, words and attention maps."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Outcome
from captionkit.serve.api.schemas import CAPTIONS, captions_body, failures
from captionkit.serve.errors import Reply, named, raise_if_all
from captionkit.serve.logs import tell
from captionkit.serve.options import Options, Wanted, read_options, split_options
from captionkit.serve.request_parsing import take_in
from captionkit.serve.service import Service


def captions(service: Service) -> APIRouter:
    """Return the router of the endpoint for `service`."""
    router = APIRouter(tags=["captions"])

    @router.post(
        "/v1/captions",
        summary="Caption one image or several",
        openapi_extra={"requestBody": captions_body()},
        responses={200: CAPTIONS, **failures()},
    )
    async def create_captions(request: Request, options: Annotated[Options, Query()]) -> Response:
        """Send images as files in a form, as the request body, or as base64 in JSON. Options may be given in the query,
        the form or the JSON. In a request with several images, an image that cannot be captioned has an `error`
        instead of captions.
        """
        intake = await take_in(request, service.settings)
        wanted = read_options(intake.options).over(split_options(options))
        decoding = service.decoding(**wanted.decoding)
        found = await service.caption_all([data for _, data in intake.pictures], decoding)
        raise_if_all(found)
        names = [name for name, _ in intake.pictures]
        records = [_record(*pair, wanted) for pair in zip(names, found, strict=True)]
        tell(request, found)
        return Reply({"model": service.model, "results": records})

    return router


def _record(name: str, outcome: Outcome | CaptionkitError, wanted: Wanted) -> dict[str, Any]:
    if isinstance(outcome, CaptionkitError):
        return {"path": name, "error": named(outcome, name)}
    return outcome.reviewed(wanted.min_confidence).to_dict(name, maps=wanted.maps)
