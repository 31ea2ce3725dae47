"""POST /v1/chat/completions and GET /v1/models: captions for clients of OpenAI's API."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Caption, Outcome
from captionkit.serve.api.conversation import ChatRequest, read_conversation
from captionkit.serve.api.schemas import failures, json_body
from captionkit.serve.errors import RefusalError, named, raise_if_all_failed
from captionkit.serve.logs import log_captions
from captionkit.serve.replies import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatMessage,
    ErrorAnswer,
    ModelAnswer,
    ModelsAnswer,
    Reply,
    Usage,
    plain,
)
from captionkit.serve.request_parsing import decode_images, parse_json
from captionkit.serve.service import Service


def chat(service: Service) -> APIRouter:
    """Return the router of the endpoints for `service`."""
    router = APIRouter(tags=["OpenAI"])
    model = ModelAnswer(id=service.model, object="model", created=int(time.time()), owned_by="captionkit")

    @router.get("/v1/models", summary="The models, of which there is one", response_model=ModelsAnswer)
    async def list_models() -> Response:
        return Reply(ModelsAnswer(object="list", data=[model]))

    @router.get(
        "/v1/models/{name}",
        summary="The model",
        response_model=ModelAnswer,
        responses={404: {"description": "Another", "model": ErrorAnswer}},
    )
    async def retrieve_model(name: str) -> Response:
        if name != service.model:
            raise RefusalError(404, f"there is no model {name!r} here; there is {service.model!r}")
        return Reply(model)

    @router.post(
        "/v1/chat/completions",
        summary="Caption the images of a conversation",
        openapi_extra={"requestBody": json_body(ChatRequest)},
        response_model=ChatCompletion,
        responses={200: {"content": {"text/event-stream": {}}}, **failures()},
    )
    async def create_chat_completion(request: Request) -> Response:
        """Caption the images of the last message that contains any, one line per image. Text in messages is ignored. If
        there are no images, the answer explains what the model does.
        """
        asked = read_conversation(await parse_json(request))
        answers = await _answers(asked, request, service)
        count = service.count_tokens
        completion = _Completion(service.model, [answer.stopped(asked.stops, count) for answer in answers])
        if asked.stream:
            return StreamingResponse(completion.events(asked.tells_usage), media_type="text/event-stream")
        return Reply(completion.whole())

    return router


@dataclass(frozen=True)
class _Answer:
    """One choice of the completion, with one line per image."""

    text: str
    tokens: int
    finish: Literal["stop", "length"]

    def stopped(self, stops: Sequence[str], count: Callable[[str], int]) -> _Answer:
        """Return the answer truncated at the first occurrence of any stop sequence, with the tokens that are left."""
        found = [place for stop in stops if (place := self.text.find(stop)) >= 0]
        if not found:
            return self
        text = self.text[: min(found)]
        return _Answer(text, sum(map(count, text.splitlines())), "stop")

    def pieces(self) -> Iterator[str]:
        """Return the text word by word, for streaming."""
        return iter(re.findall(r"\s*\S+|\s+", self.text))


async def _answers(asked: ChatRequest, request: Request, service: Service) -> list[_Answer]:
    """Return the choices. Among several images, one without a caption has the error message as its line."""
    decoding = asked.decoding(service)
    texts = asked.images()
    if not texts:
        return [_introduction(service.model, asked.most_words)] * (asked.n or 1)
    images = await decode_images(texts, request, service.settings)
    found = await service.caption_all([data for _, data in images], decoding)
    raise_if_all_failed(found)
    log_captions(request, found)
    names = [name for name, _ in images]
    choices = min(len(outcome.captions) for outcome in found if isinstance(outcome, Outcome))
    return [_described(names, found, choice, decoding.max_length) for choice in range(choices)]


def _described(names: Sequence[str], found: Sequence[Outcome | CaptionkitError], choice: int, most: int) -> _Answer:
    lines: list[str] = []
    captions: list[Caption] = []
    for name, outcome in zip(names, found, strict=True):
        if isinstance(outcome, CaptionkitError):
            lines.append(f"[{named(outcome, name)}]")
        else:
            captions.append(outcome.captions[choice])
            lines.append(captions[-1].text)
    cut = any(len(caption.tokens) >= most for caption in captions)
    return _Answer("\n".join(lines), sum(len(caption.tokens) for caption in captions), "length" if cut else "stop")


def _introduction(model: str, most: int | None) -> _Answer:
    """Return the answer to a request without images: clients often probe a service with a short text."""
    words = (
        f"This is {model}, an image captioner of captionkit: it describes images and does nothing else, "
        "so send it one, in a part of type image_url."
    ).split()
    shown = words[:most]
    return _Answer(" ".join(shown), len(shown), "stop" if len(shown) == len(words) else "length")


class _Completion:
    """OpenAI's completion object, as a whole or as a stream of events."""

    def __init__(self, model: str, answers: list[_Answer]) -> None:
        self._answers = answers
        self._head: Any = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        tokens = sum(answer.tokens for answer in answers)
        self._usage = Usage(prompt_tokens=0, completion_tokens=tokens, total_tokens=tokens)

    def whole(self) -> ChatCompletion:
        choices = [
            ChatChoice(
                index=index,
                message=ChatMessage(role="assistant", content=answer.text, refusal=None),
                finish_reason=answer.finish,
                logprobs=None,
            )
            for index, answer in enumerate(self._answers)
        ]
        return ChatCompletion(**self._head, object="chat.completion", choices=choices, usage=self._usage)

    def events(self, usage: bool) -> Iterator[str]:
        """Yield server-sent events, one per word, although the search has already found the whole caption.

        With `usage` the last chunk holds the token counts, and `usage` is null in the others, as in OpenAI's API.
        """
        empty: dict[str, Any] = {"usage": None} if usage else {}
        for index, answer in enumerate(self._answers):
            yield self._event(index, ChatDelta(role="assistant", content=""), empty)
            for piece in answer.pieces():
                yield self._event(index, ChatDelta(content=piece), empty)
            yield self._event(index, ChatDelta(), empty, answer.finish)
        if usage:
            yield self._line(choices=[], usage=self._usage)
        yield "data: [DONE]\n\n"

    def _event(
        self, index: int, delta: ChatDelta, more: dict[str, Any], finish: Literal["stop", "length"] | None = None
    ) -> str:
        choice = ChatChunkChoice(index=index, delta=delta, finish_reason=finish, logprobs=None)
        return self._line(choices=[choice], **more)

    def _line(self, **content: Any) -> str:
        return f"data: {json.dumps(plain(ChatChunk(**self._head, object='chat.completion.chunk', **content)))}\n\n"
