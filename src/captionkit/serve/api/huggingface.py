"""POST /: the image-to-text task of Hugging Face's inference API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Outcome
from captionkit.inference.search import Decoding
from captionkit.serve.api.schemas import failures, inputs_body
from captionkit.serve.errors import RefusalError, named, raise_if_all_failed
from captionkit.serve.logs import log_captions
from captionkit.serve.options import decoding_fields, validated
from captionkit.serve.replies import Generated, GeneratedText, GenerationError, Reply
from captionkit.serve.request_parsing import CURL_TYPE, parse_request
from captionkit.serve.service import CEILINGS, Service

#: names in transformers -> names of captionkit's options, where they differ
_NAMES = {"min_new_tokens": "min_length"}


class Parameters(BaseModel):
    """The supported parameters of Hugging Face's API. Options of /v1/captions are accepted as well."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    max_new_tokens: int | None = Field(None, ge=1, description="most words of a caption")
    num_return_sequences: int | None = Field(None, ge=1, le=CEILINGS["num_captions"], description="captions")
    do_sample: bool | None = Field(None, description="sample; else temperature, top_k, top_p do nothing")

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Flatten the objects in which Hugging Face's API and pipelines nest generation parameters."""
        flat: dict[str, Any] = {}
        for name, value in given.items():
            inner = name in ("generation_parameters", "generate_kwargs")
            if inner and not isinstance(value or {}, dict):
                raise ValueError(f"{name} must be an object")
            flat |= (value or {}) if inner else {name: value}
        return flat

    def decoding(self, service: Service) -> Decoding:
        """Return the decoding options, merged from Hugging Face's and captionkit's names."""
        given = {_NAMES.get(name, name): value for name, value in (self.model_extra or {}).items()}
        if isinstance(early := given.get("early_stopping"), bool):  # as transformers takes it
            given["early_stopping"] = str(early).lower()
        asked: dict[str, Any] = {
            "do_sample": self.do_sample,
            "captions": self.num_return_sequences,
            "words": self.max_new_tokens,
        }
        return service.decoding(**decoding_fields(given, service.captioner.decoding, **asked))


def huggingface(service: Service) -> APIRouter:
    """Return the router of the endpoint for `service`."""
    router = APIRouter(tags=["captions"])

    @router.post(
        "/",
        summary="Hugging Face's image-to-text task",
        openapi_extra={"requestBody": inputs_body(Parameters)},
        response_model=Generated,
        responses=failures(),
    )
    async def image_to_text(request: Request) -> Response:
        """Send an image as the body, or JSON with `inputs`, an image in base64, and `parameters`, as
        `InferenceClient(model=URL).image_to_text(photo)` of huggingface_hub does. A list of images returns a list of
        lists, in which an image that cannot be captioned has an `error`.
        """
        parsed = await parse_request(request, service.settings, CURL_TYPE)
        decoding = _read(parsed.options).decoding(service)
        found = await service.caption_all([data for _, data in parsed.images], decoding)
        raise_if_all_failed(found)
        log_captions(request, found)
        generated = [_generated(outcome, name) for outcome, (name, _) in zip(found, parsed.images, strict=True)]
        return Reply(generated if len(generated) > 1 else generated[0])

    return router


def _read(options: dict[str, Any]) -> Parameters:
    """Parse the parameters, in `parameters` or next to the image; ignore `options` for Hugging Face's servers."""
    beside = {name: value for name, value in options.items() if name not in ("parameters", "options")}
    parameters = options.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RefusalError(422, "parameters: must be an object")
    return validated(Parameters, beside | parameters)


def _generated(outcome: Outcome | CaptionkitError, name: str) -> list[GeneratedText | GenerationError]:
    if isinstance(outcome, CaptionkitError):
        return [GenerationError(error=named(outcome, name))]
    return [GeneratedText(generated_text=caption.text) for caption in outcome.captions]
