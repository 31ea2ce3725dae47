"""POST /v1/responses: captions for clients of OpenAI's Responses API. Nothing is stored."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from captionkit.serve.api.answers import Question, TextAnswer, answer
from captionkit.serve.api.conversation import ContentPart, MostWords, ResponseFormat, check_text, images_of
from captionkit.serve.api.schemas import failures, json_body
from captionkit.serve.errors import RefusalError
from captionkit.serve.options import conversation_options, decoding_fields, validated
from captionkit.serve.replies import (
    IncompleteDetails,
    Reply,
    ResponseAnswer,
    ResponseEvent,
    ResponseFormatText,
    ResponseMessage,
    ResponseText,
    ResponseTokens,
    plain,
)
from captionkit.serve.request_parsing import parse_json
from captionkit.serve.service import Service

_PROBABILITIES = "message.output_text.logprobs"


class InputItem(BaseModel):
    """A message, or an item of another type, which is ignored."""

    role: str | None = None
    content: str | list[ContentPart] | None = None


class TextOptions(BaseModel):
    """The format of the answer; only text is supported."""

    format: ResponseFormat | None = None


class ResponseRequest(BaseModel):
    """The supported fields of OpenAI's request. Options of /v1/captions are accepted as well.

    Fields that ask for output that captions do not provide are rejected; all others are ignored.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    input: str | list[InputItem] = Field(description="the images of the last message that has any are captioned")
    model: str | None = Field(None, description="whatever it is, the one model answers")
    stream: bool | None = Field(None, description="send the caption as server-sent events, a word each")
    max_output_tokens: MostWords = Field(None, description="most words of a caption")
    do_sample: bool | None = Field(None, description="sample; else temperature, top_k and top_p do nothing")
    text: TextOptions | None = Field(None, description="text; no other format is to be had")
    include: list[str] | None = None
    background: bool | None = Field(None, description="only false")
    previous_response_id: str | None = Field(None, description="none, since no response is kept")

    def question(self, service: Service) -> Question:
        """Return what is asked for, its decoding merged from OpenAI's and captionkit's names of options."""
        given, usual = conversation_options(self.model_extra), service.captioner.decoding
        fields = decoding_fields(given, usual, do_sample=self.do_sample, words=self.max_output_tokens)
        contents = [item.content for item in self.input] if isinstance(self.input, list) else []
        decoding = service.decoding(**{**fields, "num_captions": 1})
        how = "in a part of type input_image"
        return Question(images_of("input", contents), decoding, how, most_words=self.max_output_tokens)

    def check(self) -> None:
        """Raise RefusalError (400) for fields that ask for what is not to be had."""
        check_text("text.format", self.text.format if self.text else None, self.model_extra or {})
        if _PROBABILITIES in (self.include or []):
            raise RefusalError(400, f"include: captions have no {_PROBABILITIES}; leave it out")
        if self.background:
            raise RefusalError(400, "background: captions are ready at once; leave it out")
        if self.previous_response_id:
            raise RefusalError(400, "previous_response_id: no response is kept; send the image itself")


def responses(service: Service) -> APIRouter:
    """Return the router of the endpoint for `service`."""
    router = APIRouter(tags=["OpenAI"])

    @router.post(
        "/v1/responses",
        summary="Caption the images of an input",
        openapi_extra={"requestBody": json_body(ResponseRequest)},
        response_model=ResponseAnswer,
        responses={200: {"content": {"text/event-stream": {}}}, **failures()},
    )
    async def create_response(request: Request) -> Response:
        """Caption the images of the last message that contains any, one line per image. Text in messages is ignored. If
        there are no images, the answer explains what the model does.
        """
        asked = validated(ResponseRequest, await parse_json(request))
        asked.check()
        (found,) = await answer(asked.question(service), request, service)
        response = _Response(service.model, found, asked.max_output_tokens)
        if asked.stream:
            return StreamingResponse(response.events(), media_type="text/event-stream")
        return Reply(response.whole())

    return router


class _Response:
    """OpenAI's response object, as a whole or as a stream of events."""

    def __init__(self, model: str, found: TextAnswer, most: int | None) -> None:
        self._found, self._model, self._most = found, model, most
        self._id, self._item, self._created = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}", int(time.time())
        self._cut = found.finish == "length"
        self._count = 0

    def whole(self) -> ResponseAnswer:
        """Return the finished response."""
        tokens = self._found.tokens
        usage = ResponseTokens(
            input_tokens=0,
            input_tokens_details={"cached_tokens": 0},
            output_tokens=tokens,
            output_tokens_details={"reasoning_tokens": 0},
            total_tokens=tokens,
        )
        return self._at(self._ending, [self._message(self._ending, [self._text(self._found.text)])], usage)

    @property
    def _ending(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if self._cut else "completed"

    def events(self) -> Iterator[str]:
        """Yield server-sent events, one per word, although the search has already found the whole caption."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._at("in_progress", [], None))
        yield self._event("response.output_item.added", output_index=0, item=self._message("in_progress", []))
        part = {"item_id": self._item, "output_index": 0, "content_index": 0}
        yield self._event("response.content_part.added", **part, part=self._text(""))
        for piece in self._found.pieces():
            yield self._event("response.output_text.delta", **part, delta=piece, logprobs=[])
        text, response = self._text(self._found.text), self.whole()
        yield self._event("response.output_text.done", **part, text=text.text, logprobs=[])
        yield self._event("response.content_part.done", **part, part=text)
        yield self._event("response.output_item.done", output_index=0, item=response.output[0])
        yield self._event(f"response.{self._ending}", response=response)

    def _event(self, kind: str, **content: Any) -> str:
        event = ResponseEvent(type=kind, sequence_number=self._count, **content)
        self._count += 1
        return f"event: {kind}\ndata: {json.dumps(plain(event))}\n\n"

    def _text(self, text: str) -> ResponseText:
        return ResponseText(type="output_text", text=text, annotations=[], logprobs=[])

    def _message(
        self, status: Literal["in_progress", "completed", "incomplete"], content: list[ResponseText]
    ) -> ResponseMessage:
        return ResponseMessage(type="message", id=self._item, role="assistant", status=status, content=content)

    def _at(
        self,
        status: Literal["in_progress", "completed", "incomplete"],
        output: list[ResponseMessage],
        usage: ResponseTokens | None,
    ) -> ResponseAnswer:
        cut = status == "incomplete"
        return ResponseAnswer(
            id=self._id,
            object="response",
            created_at=self._created,
            status=status,
            background=False,
            error=None,
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if cut else None,
            instructions=None,
            max_output_tokens=self._most,
            metadata={},
            model=self._model,
            output=output,
            parallel_tool_calls=False,
            previous_response_id=None,
            reasoning={"effort": None, "summary": None},
            store=False,
            temperature=None,
            text=ResponseFormatText(format={"type": "text"}),
            tool_choice="none",
            tools=[],
            top_p=None,
            truncation="disabled",
            usage=usage,
            user=None,
        )
