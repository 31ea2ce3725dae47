"""POST /: the image-to-text task as Hugging Face's clients speak it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from captionkit.serve.errors import Reply
from captionkit.serve.intake import take_picture
from captionkit.serve.logs import tell
from captionkit.serve.schema import GENERATED, failures, picture_body
from captionkit.serve.service import Service

_CURLS_OWN = "application/x-www-form-urlencoded"  # what `curl --data-binary` says, as Hugging Face's examples let it


def huggingface(service: Service) -> APIRouter:
    """The endpoint, for a service."""
    router = APIRouter(tags=["captions"])

    @router.post(
        "/",
        summary="Hugging Face's image-to-text task",
        openapi_extra={"requestBody": picture_body()},
        responses={200: GENERATED, **failures()},
    )
    async def image_to_text(request: Request) -> Response:
        """The body is a picture. `InferenceClient(model=URL).image_to_text(photo)` of huggingface_hub asks so."""
        outcome = await service.caption(await take_picture(request, _CURLS_OWN))
        tell(request, [outcome])
        return Reply([{"generated_text": caption.text} for caption in outcome.captions])

    return router
