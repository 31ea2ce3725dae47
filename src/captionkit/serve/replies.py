"""The answers of the service: handlers build these models, and OpenAPI describes them.

A field that a request did not ask for is left unset, and then is absent from the JSON.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, SkipValidation

#: text that repeats what a client sent; it may hold lone surrogates, which pydantic would refuse
Echoed = SkipValidation[str]


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="forbid")


class Reply(JSONResponse):
    """JSON response in UTF-8 of an answer, or a list of answers; lone surrogates, which UTF-8 lacks, are escaped."""

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain)
        return text.encode("utf-8", "backslashreplace")


def plain(answer: Answer) -> dict[str, Any]:
    """Return the fields of an answer that are set, as JSON values."""
    return answer.model_dump(exclude_unset=True)


# ---- captions


class WordAnswer(Answer):
    """A word of a caption."""

    text: str
    confidence: float = Field(description="probability that people who describe the image use the word too")
    attention: list[list[float]] | None = Field(
        None, description="rows of grid cells, summing to 1; only where asked for"
    )


class CaptionAnswer(Answer):
    """A caption of an image."""

    text: str
    log_prob: float = Field(description="natural logarithm of the model's probability of the whole caption")
    confidence: float = Field(description="probability that the caption is right, 0 to 1")
    review: bool = Field(
        default=False, description="whether confidence is below min_confidence; only where that was given"
    )
    words: list[WordAnswer]


class Timings(Answer):
    """Milliseconds that an image took, its share of a batch."""

    open: float
    encode: float
    decode: float


class ImageAnswer(Answer):
    """An image's captions, best first, or the error that it has none."""

    path: Echoed = Field(description="the file's name, or the image's place in the request")
    captions: list[CaptionAnswer] | None = None
    review: bool = Field(default=False, description="that of the best caption")
    ms: Timings | None = None
    note: str = Field(default="", description="a problem with the file that did not prevent captions")
    error: Echoed = Field(default="", description="why this image has no captions")


class CaptionsAnswer(Answer):
    """A result for each image, in order."""

    model: str
    results: list[ImageAnswer]


# ---- Hugging Face


class GeneratedText(Answer):
    """A caption, as Hugging Face's image-to-text task names it."""

    generated_text: str


class GenerationError(Answer):
    """The error of one of several images, in the place of its captions."""

    error: Echoed


#: the answer for one image, and for several
Generated = list[GeneratedText] | list[list[GeneratedText | GenerationError]]


# ---- OpenAI


class Usage(Answer):
    """Tokens of a completion; images count none."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(Answer):
    """The answer's text: a line for each image."""

    role: Literal["assistant"]
    content: Echoed
    refusal: None


class ChatChoice(Answer):
    """One of `n` answers."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None


class ChatCompletion(Answer):
    """OpenAI's completion object."""

    id: str
    created: int
    model: str
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(Answer):
    """What an event of a stream adds to an answer."""

    role: Literal["assistant"] = "assistant"
    content: Echoed = ""


class ChatChunkChoice(Answer):
    """The part of one answer in an event."""

    index: int
    delta: ChatDelta
    finish_reason: Literal["stop", "length"] | None
    logprobs: None


class ChatChunk(Answer):
    """An event of a stream; `usage` is set where the request includes it, and is null in all but the last."""

    id: str
    created: int
    model: str
    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelAnswer(Answer):
    """The model that answers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsAnswer(Answer):
    """A list of one model."""

    object: Literal["list"]
    data: list[ModelAnswer]


# ---- health and errors


class HealthAnswer(Answer):
    """The service runs."""

    status: Literal["ok"]


class ReadyAnswer(Answer):
    """The service would take an image now."""

    status: Literal["ready"]
    model: str


class ErrorDetail(Answer):
    """The reason in one line, and the HTTP status."""

    message: Echoed
    type: str
    status: int


class ErrorAnswer(Answer):
    """All errors have this form."""

    error: ErrorDetail
