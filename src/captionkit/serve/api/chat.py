"""POST /v1/chat/completions and GET /v1/models: captions for clients of OpenAI's API."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from captionkit.serve.api.answers import TextAnswer, answer
from captionkit.serve.api.conversation import ChatRequest, read_conversation
from captionkit.serve.api.schemas import failures, json_body
from captionkit.serve.errors import RefusalError
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
from captionkit.serve.request_parsing import parse_json
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
        completion = _Completion(service.model, await answer(asked.question(service), request, service))
        if asked.stream:
            return StreamingResponse(completion.events(asked.tells_usage), media_type="text/event-stream")
        return Reply(completion.whole())

    return router


class _Completion:
    """OpenAI's completion object, as a whole or as a stream of events."""

    def __init__(self, model: str, answers: list[TextAnswer]) -> None:
        self._answers = answers
        self._head: Any = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        tokens = sum(found.tokens for found in answers)
        self._usage = Usage(prompt_tokens=0, completion_tokens=tokens, total_tokens=tokens)

    def whole(self) -> ChatCompletion:
        choices = [
            ChatChoice(
                index=index,
                message=ChatMessage(role="assistant", content=found.text, refusal=None),
                finish_reason=found.finish,
                logprobs=None,
            )
            for index, found in enumerate(self._answers)
        ]
        return ChatCompletion(**self._head, object="chat.completion", choices=choices, usage=self._usage)

    def events(self, usage: bool) -> Iterator[str]:
        """Yield server-sent events, one per word, although the search has already found the whole caption.

        With `usage` the last chunk holds the token counts, and `usage` is null in the others, as in OpenAI's API.
        """
        empty: dict[str, Any] = {"usage": None} if usage else {}
        for index, found in enumerate(self._answers):
            yield self._event(index, ChatDelta(role="assistant", content=""), empty)
            for piece in found.pieces():
                yield self._event(index, ChatDelta(content=piece), empty)
            yield self._event(index, ChatDelta(), empty, found.finish)
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
