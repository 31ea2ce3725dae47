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
    region: list[float] | None = Field(
        default=None,
        description="left, top, right and bottom of what attention covers, as shares of the image's width and height; "
        "only with attention",
    )
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


class ResponseTokens(Answer):
    """Tokens of a response; images count none."""

    input_tokens: int
    input_tokens_details: dict[Literal["cached_tokens"], int]
    output_tokens: int
    output_tokens_details: dict[Literal["reasoning_tokens"], int]
    total_tokens: int


class ResponseText(Answer):
    """The text of a response: a line for each image."""

    type: Literal["output_text"]
    text: Echoed
    annotations: list[str] = Field(description="always empty")
    logprobs: list[str] = Field(description="always empty")


class ResponseMessage(Answer):
    """The one message of a response."""

    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[ResponseText]


class IncompleteDetails(Answer):
    """Why a response ends early."""

    reason: Literal["max_output_tokens"]


class ResponseFormatText(Answer):
    """The format of a response's text."""

    format: dict[Literal["type"], Literal["text"]]


class ResponseAnswer(Answer):
    """OpenAI's response object. What it says of tools, storage and sampling is what this service does: none."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    background: Literal[False]
    error: None
    incomplete_details: IncompleteDetails | None
    instructions: None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[ResponseMessage]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[Literal["effort", "summary"], None]
    store: Literal[False]
    temperature: float | None
    text: ResponseFormatText
    tool_choice: Literal["none"]
    tools: list[str]
    top_p: float | None
    truncation: Literal["disabled"]
    usage: ResponseTokens | None
    user: None


class ResponseEvent(Answer):
    """An event of a streamed response; which fields it has depends on its type."""

    type: str
    sequence_number: int
    response: ResponseAnswer | None = None
    item_id: str = ""
    output_index: int = 0
    content_index: int = 0
    item: ResponseMessage | None = None
    part: ResponseText | None = None
    delta: Echoed = ""
    text: Echoed = ""
    logprobs: list[str] = Field(default_factory=list)


# ---- Ollama


class OllamaVersion(Answer):
    """The version of Ollama whose API this is."""

    version: str


class OllamaDetails(Answer):
    """What kind of model it is."""

    parent_model: str
    format: Literal["onnx"]
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(Answer):
    """A model in the list of models."""

    name: str
    model: str
    modified_at: str
    size: int = Field(description="bytes of its graphs")
    digest: str = Field(description="SHA-256 of its config.json")
    details: OllamaDetails


class OllamaModels(Answer):
    """A list of one model."""

    models: list[OllamaModel]


class OllamaShown(Answer):
    """What is known of the model."""

    license: str
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, str]
    capabilities: list[Literal["completion", "vision"]]
    modified_at: str


class OllamaMessage(Answer):
    """The answer to a chat: a line for each image, or in a stream a word of it."""

    role: Literal["assistant"]
    content: Echoed


class _OllamaPart(Answer):
    """An answer or, in a stream, a piece of one. The last has `done`, and tokens and nanoseconds with it."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"] = "stop"
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class OllamaGenerated(_OllamaPart):
    """The answer of /api/generate: a line for each image, or in a stream a word of it."""

    response: Echoed


class OllamaChatted(_OllamaPart):
    """The answer of /api/chat."""

    message: OllamaMessage


class OllamaError(Answer):
    """An error, as clients of Ollama read it."""

    error: Echoed


# ---- PhotoPrism


class VisionModel(Answer):
    """The model that answers."""

    type: Literal["caption"]
    name: str
    version: str = Field(description="that of captionkit")


class VisionCaption(Answer):
    """The caption of an image."""

    text: str
    confidence: float = Field(description="probability that the caption is right, 0 to 1")


class VisionResult(Answer):
    """What PhotoPrism asked for."""

    caption: VisionCaption


class VisionAnswer(Answer):
    """The answer of PhotoPrism's vision API."""

    id: Echoed = Field(description="the request's, or a new one")
    code: Literal[200]
    model: VisionModel
    result: VisionResult


class VisionError(Answer):
    """An error, as PhotoPrism reads it."""

    code: int
    error: Echoed


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
