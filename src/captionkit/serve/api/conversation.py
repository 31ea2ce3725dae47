"""Requests of OpenAI's chat API: the images of a conversation, decoding options and the form of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from captionkit.serve.api.answers import Question
from captionkit.serve.errors import RefusalError
from captionkit.serve.options import conversation_options, decoding_fields, validated
from captionkit.serve.service import CEILINGS, Service

#: fields that ask for output that captions do not provide, with the values that are accepted as having no effect
_BEYOND: dict[str, tuple[Any, ...]] = {
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "prompt_logprobs": (),
    "top_logprobs": (0,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "modalities": (["text"],),
}


class ImageUrl(BaseModel):
    """An image."""

    url: str = Field(description="data:image/jpeg;base64,... or, where the service allows them, an http(s) URL")


class ContentPart(BaseModel):
    """A part of a message. Text is ignored, since the model takes no prompt."""

    type: str = "image_url"
    text: str | None = None
    image_url: ImageUrl | str | None = None

    def image(self) -> str | None:
        """Return the image's URL if the part is an image, else None. Raises RefusalError (422) if it is missing."""
        if self.type not in ("image_url", "input_image"):
            return None
        found = self.image_url.url if isinstance(self.image_url, ImageUrl) else self.image_url
        if not found:
            raise RefusalError(422, f"a part of type {self.type} has no image_url; send a data: URL in it")
        return found


class Message(BaseModel):
    """A message. The images of the last message that contains any are captioned."""

    role: str
    content: str | list[ContentPart] | None = None


def images_of(name: str, contents: Sequence[str | list[ContentPart] | None]) -> list[tuple[str, str]]:
    """Return (place, URL) of each image of the last message that has any; `name` is the field with the messages."""
    for place, content in reversed(list(enumerate(contents))):
        parts = content if isinstance(content, list) else []
        images = [(f"{name}[{place}].content[{n}]", part.image()) for n, part in enumerate(parts)]
        found = [(name, image) for name, image in images if image is not None]
        if found:
            return found
    return []


class StreamOptions(BaseModel):
    """What a stream contains besides the caption."""

    include_usage: bool | None = None


class ResponseFormat(BaseModel):
    """The format of the answer; only text is supported."""

    type: str


def check_text(name: str, wanted: ResponseFormat | None, others: Mapping[str, Any]) -> None:
    """Raise RefusalError (400) if a request asks for output that captions do not provide.

    `name` is the field with the format that is `wanted`; `others` are the fields that have no meaning here.
    """
    if wanted and wanted.type != "text":
        raise RefusalError(400, f"{name}: captions are plain text, not {wanted.type}; leave it out, or send text")
    for field, harmless in _BEYOND.items():
        value = others.get(field)
        if value is not None and value not in harmless:
            raise RefusalError(400, f"{field}: captions are plain text and nothing besides; leave it out")


def _without_limit(most: Any) -> Any:
    return None if str(most) == "-1" else most  # llama.cpp and similar servers use -1 for no limit


#: a number of words
MostWords = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_without_limit)]
_Stop = Annotated[str, Field(min_length=1, max_length=200)]
#: texts before the first of which an answer ends
Stops = _Stop | Annotated[list[_Stop], Field(max_length=16)] | None


def listed(stops: Stops) -> list[str]:
    """Return stop sequences as a list."""
    return [stops] if isinstance(stops, str) else stops or []


class ChatRequest(BaseModel):
    """The supported fields of OpenAI's request. Options of /v1/captions are accepted as well.

    Fields that ask for output that captions do not provide are rejected; all others are ignored.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    messages: list[Message] = Field(min_length=1, max_length=1000)
    model: str | None = Field(None, description="whatever it is, the one model answers")
    stream: bool | None = Field(None, description="send the caption as server-sent events, a word each")
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=CEILINGS["num_captions"], description="captions, best first")
    max_tokens: MostWords = Field(None, description="most words of a caption")
    max_completion_tokens: MostWords = Field(None, description="the same")
    do_sample: bool | None = Field(None, description="sample; else temperature, top_k and top_p do nothing")
    stop: Stops = Field(None, description="texts before the first of which the answer ends")
    response_format: ResponseFormat | None = Field(None, description="text; no other is to be had")

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def question(self, service: Service) -> Question:
        """Return what is asked for, its decoding merged from OpenAI's and captionkit's names of options."""
        given, usual = conversation_options(self.model_extra), service.captioner.decoding
        most = self.max_completion_tokens or self.max_tokens
        fields = decoding_fields(given, usual, do_sample=self.do_sample, captions=self.n, words=most)
        return Question(
            images_of("messages", [message.content for message in self.messages]),
            service.decoding(**fields),
            "in a part of type image_url",
            most_words=most,
            choices=self.n or 1,
            stops=listed(self.stop),
        )

    def check(self) -> None:
        """Raise RefusalError (400) for fields that ask for output that captions do not provide."""
        check_text("response_format", self.response_format, self.model_extra or {})
        if self.stream_options and not self.stream:
            raise RefusalError(400, "stream_options: goes with a stream; leave it out, or set stream")


def read_conversation(body: dict[str, Any]) -> ChatRequest:
    """Parse a JSON object as a request. Raises RefusalError if it is invalid or asks for unsupported output."""
    asked = validated(ChatRequest, body)
    asked.check()
    return asked
