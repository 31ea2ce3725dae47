"""POST /: the image-to-text task as Hugging Face's clients speak it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Outcome
from captionkit.inference.search import Decoding
from captionkit.serve.api.schemas import GENERATED, failures, inputs_body
from captionkit.serve.errors import RefusalError, Reply, named, raise_if_all
from captionkit.serve.logs import tell
from captionkit.serve.options import decoding_fields, reason_of
from captionkit.serve.request_parsing import take_in
from captionkit.serve.service import CEILINGS, Service

_CURLS_OWN = "application/x-www-form-urlencoded"  # what `curl --data` says, as Hugging Face's examples let it
#: what transformers calls options of captionkit's
_NAMES = {
    "num_beams": "beam",
    "num_beam_groups": "groups",
    "diversity_penalty": "diversity",
    "no_repeat_ngram_size": "no_repeat",
    "min_new_tokens": "min_length",
}


class Parameters(BaseModel):
    """What is taken of Hugging Face's parameters. Options of /v1/captions may stand beside them."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    max_new_tokens: int | None = Field(None, ge=1, description="most words of a caption")
    num_return_sequences: int | None = Field(None, ge=1, le=CEILINGS["num_captions"], description="captions")
    do_sample: bool | None = Field(None, description="draw captions at random")

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Without the objects in which Hugging Face's API and its pipelines keep what goes to the model."""
        flat: dict[str, Any] = {}
        for name, value in given.items():
            inner = name in ("generation_parameters", "generate_kwargs")
            if inner and not isinstance(value or {}, dict):
                raise ValueError(f"{name} must be an object")
            flat |= (value or {}) if inner else {name: value}
        return flat

    def decoding(self, service: Service) -> Decoding:
        """The options by Hugging Face's names and by captionkit's, as they fit together."""
        given = {_NAMES.get(name, name): value for name, value in (self.model_extra or {}).items()}
        if self.do_sample is not None:
            given["temperature"] = (given.get("temperature") or 1.0) if self.do_sample else 0.0
        usual = service.captioner.decoding
        chosen = decoding_fields(given, usual, captions=self.num_return_sequences, words=self.max_new_tokens)
        return service.decoding(**chosen)


def huggingface(service: Service) -> APIRouter:
    """The endpoint, for a service."""
    router = APIRouter(tags=["captions"])

    @router.post(
        "/",
        summary="Hugging Face's image-to-text task",
        openapi_extra={"requestBody": inputs_body(Parameters)},
        responses={200: GENERATED, **failures()},
    )
    async def image_to_text(request: Request) -> Response:
        """The body is an image, or JSON with `inputs`, an image in base64, and `parameters`.
        `InferenceClient(model=URL).image_to_text(photo)` of huggingface_hub asks so. For a list of images there is a
        list of lists, where one that has no caption has an `error`.
        """
        intake = await take_in(request, service.settings, _CURLS_OWN)
        decoding = _read(intake.options).decoding(service)
        found = await service.caption_all([data for _, data in intake.pictures], decoding)
        raise_if_all(found)
        tell(request, found)
        generated = [_generated(outcome, name) for outcome, (name, _) in zip(found, intake.pictures, strict=True)]
        return Reply(generated if len(generated) > 1 else generated[0])

    return router


def _read(options: dict[str, Any]) -> Parameters:
    """The parameters, in their object or beside the image; what is said of Hugging Face's own machines is nothing."""
    beside = {name: value for name, value in options.items() if name not in ("parameters", "options")}
    parameters = options.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RefusalError(422, "parameters: must be an object")
    try:
        return Parameters.model_validate(beside | parameters)
    except ValidationError as error:
        raise RefusalError(422, reason_of(error.errors())) from None


def _generated(outcome: Outcome | CaptionkitError, name: str) -> list[dict[str, str]]:
    if isinstance(outcome, CaptionkitError):
        return [{"error": named(outcome, name)}]
    return [{"generated_text": caption.text} for caption in outcome.captions]
