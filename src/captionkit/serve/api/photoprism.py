"""POST /api/v1/vision/caption: the vision API of PhotoPrism."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from captionkit import __version__
from captionkit.serve.api.ollama_requests import NO_OPTIONS, ModelOptions
from captionkit.serve.api.schemas import failures, json_body
from captionkit.serve.errors import RefusalError
from captionkit.serve.logs import log_captions
from captionkit.serve.options import validated
from captionkit.serve.replies import Reply, VisionAnswer, VisionCaption, VisionError, VisionModel, VisionResult
from captionkit.serve.request_parsing import decode_images, parse_json
from captionkit.serve.service import Service


class VisionRequest(BaseModel):
    """The supported fields of PhotoPrism's request; all others are ignored."""

    model_config = ConfigDict(allow_inf_nan=False)

    id: str | None = Field(None, description="repeated in the answer")
    images: list[str] | None = Field(None, description="the image as a data: URL; of several, the first")
    url: str | None = Field(None, description="the URL of the image, where the service fetches URLs")
    options: ModelOptions | None = None

    def image(self) -> tuple[str, str]:
        """Return the name of the image's field and the image as it was sent. Raises RefusalError (422)."""
        if self.url:
            return "url", self.url
        if self.images:
            return "images[0]", self.images[0]
        raise RefusalError(422, "there is no image in the request; send one in images")


def photoprism(service: Service) -> APIRouter:
    """Return the router of the endpoint for `service`."""
    router = APIRouter(tags=["PhotoPrism"])
    model = VisionModel(type="caption", name=service.model, version=__version__)

    @router.post(
        "/api/v1/vision/caption",
        summary="Caption an image for PhotoPrism",
        openapi_extra={"requestBody": json_body(VisionRequest)},
        response_model=VisionAnswer,
        responses=failures(VisionError),
    )
    async def create_caption(request: Request) -> Response:
        """Caption one image, as PhotoPrism sends it to a vision service. Prompts are ignored."""
        asked = validated(VisionRequest, await parse_json(request))
        question = (asked.options or NO_OPTIONS).question([asked.image()], service)
        ((_, image),) = await decode_images(question.images, request, service.settings)
        if isinstance(image, RefusalError):
            raise image
        outcome = await service.caption(image, question.decoding)
        log_captions(request, [outcome])
        best = outcome.captions[0]
        caption = VisionCaption(text=best.text, confidence=round(best.confidence, 4))
        result = VisionResult(caption=caption)
        return Reply(VisionAnswer(id=asked.id or str(uuid.uuid4()), code=200, model=model, result=result))

    return router
