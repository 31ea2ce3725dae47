"""POST /v1/chat/completions and GET /v1/models: captions for clients that speak OpenAI's API."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from captionkit.captioner import Caption
from captionkit.errors import CaptionkitError
from captionkit.search import Decoding
from captionkit.serve.errors import RefusalError, Reply
from captionkit.serve.intake import content_type, pictures_in, take_json
from captionkit.serve.logs import tell
from captionkit.serve.options import Options, read_options, reason_of
from captionkit.serve.schema import COMPLETION, MODELS, failures, json_body
from captionkit.serve.service import CEILINGS, Service


class ImageUrl(BaseModel):
    """A picture."""

    url: str = Field(description="data:image/jpeg;base64,... or, where the service allows them, an http(s) URL")


class Part(BaseModel):
    """A part of a message. Texts are passed over: a captioner describes, whatever it is told."""

    type: str
    text: str | None = None
    image_url: ImageUrl | None = None


class Message(BaseModel):
    """A message. The pictures of the last one that has any are described."""

    role: str
    content: str | list[Part] | None = None


class StreamOptions(BaseModel):
    """What a stream tells beside the caption."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is taken of OpenAI's request. Options of /v1/captions may stand beside it; the rest is passed over."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    messages: list[Message] = Field(min_length=1, max_length=1000)
    model: str | None = Field(None, description="whatever it is, the one model answers")
    stream: bool | None = Field(None, description="send the caption as server-sent events, a word each")
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=CEILINGS["num_captions"], description="captions, best first")
    max_tokens: int | None = Field(None, ge=1, description="most words of a caption")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same")

    def pictures(self) -> list[str]:
        """The URLs of the pictures to describe."""
        for message in reversed(self.messages):
            parts = message.content if isinstance(message.content, list) else []
            found = [part.image_url.url for part in parts if part.type == "image_url" and part.image_url]
            if found:
                return found
        raise RefusalError(422, "no message has a picture; send a part of type image_url with a data: URL")

    def decoding(self, service: Service) -> Decoding:
        """The options by OpenAI's names and by captionkit's, as they fit together."""
        known = set(Options.model_fields) - {"attention"}
        given = {name: value for name, value in (self.model_extra or {}).items() if name in known and value is not None}
        if not given.get("temperature"):
            given.pop("top_p", None)  # clients send it along with what is for samples only
        chosen, _ = read_options(given)
        usual = service.captioner.decoding
        if self.n and "num_captions" not in chosen:
            chosen["num_captions"] = self.n
            if not chosen.get("temperature", usual.temperature):
                chosen["beam"] = max(self.n, chosen.get("beam", usual.beam))
        most = self.max_completion_tokens or self.max_tokens
        if most and "max_length" not in chosen:
            chosen["max_length"] = min(most, CEILINGS["max_length"])
            chosen["min_length"] = min(chosen.get("min_length", usual.min_length), chosen["max_length"])
        return service.decoding(**chosen)


def chat(service: Service) -> APIRouter:
    """The endpoints, for a service."""
    router = APIRouter(tags=["OpenAI"])
    model = {"id": service.model, "object": "model", "created": int(time.time()), "owned_by": "captionkit"}

    @router.get("/v1/models", summary="The model", responses={200: MODELS})
    async def list_models() -> Response:
        return Reply({"object": "list", "data": [model]})

    @router.post(
        "/v1/chat/completions",
        summary="Caption the pictures of a conversation",
        openapi_extra={"requestBody": json_body(ChatRequest)},
        responses={200: COMPLETION, **failures()},
    )
    async def create_chat_completion(request: Request) -> Response:
        """The pictures of the last message that has any are described, each in a line. What is said beside them is
        passed over.
        """
        if content_type(request) != "application/json":
            raise RefusalError(415, f"a conversation does not come as {content_type(request)!r}; send application/json")
        asked = _read(await take_json(request))
        decoding = asked.decoding(service)
        pictures = await pictures_in(asked.pictures(), request, service.settings)
        found = await service.caption_all(pictures, decoding)
        tell(request, found)
        captions: list[list[Caption]] = []
        for outcome in found:
            if isinstance(outcome, CaptionkitError):
                raise outcome
            captions.append(outcome.captions)
        answers = [_Answer(choice, decoding) for choice in zip(*captions, strict=False)]
        completion = _Completion(service.model, answers)
        if asked.stream:
            usage = bool(asked.stream_options and asked.stream_options.include_usage)
            return StreamingResponse(completion.events(usage), media_type="text/event-stream")
        return Reply(completion.whole())

    return router


def _read(body: dict[str, Any]) -> ChatRequest:
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        raise RefusalError(422, reason_of(error.errors())) from None


class _Answer:
    """One choice: a caption of each picture, in lines."""

    def __init__(self, captions: tuple[Caption, ...], decoding: Decoding) -> None:
        self.text = "\n".join(caption.text for caption in captions)
        self.tokens = sum(len(caption.tokens) for caption in captions)
        cut = any(len(caption.tokens) >= decoding.max_length for caption in captions)
        self.finish = "length" if cut else "stop"

    def pieces(self) -> Iterator[str]:
        """The text word by word."""
        return iter(re.findall(r"\s*\S+", self.text))


class _Completion:
    """OpenAI's object, whole or in events."""

    def __init__(self, model: str, answers: list[_Answer]) -> None:
        self._answers = answers
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        tokens = sum(answer.tokens for answer in answers)
        self._usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}

    def whole(self) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "finish_reason": answer.finish,
                "logprobs": None,
            }
            for index, answer in enumerate(self._answers)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self._usage}

    def events(self, usage: bool) -> Iterator[str]:
        """Server-sent events; the words come one after another, though the search found them together."""
        for index, answer in enumerate(self._answers):
            yield self._event(index, {"role": "assistant", "content": ""})
            for piece in answer.pieces():
                yield self._event(index, {"content": piece})
            yield self._event(index, {}, answer.finish)
        if usage:
            yield self._line({"choices": [], "usage": self._usage})
        yield "data: [DONE]\n\n"

    def _event(self, index: int, delta: dict[str, str], finish: str | None = None) -> str:
        return self._line({"choices": [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}]})

    def _line(self, content: dict[str, Any]) -> str:
        return f"data: {json.dumps({**self._head, 'object': 'chat.completion.chunk', **content})}\n\n"
