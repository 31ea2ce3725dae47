"""Ollama's API: the version, the list of models, the model, generate and chat."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.datastructures import Headers
from starlette.routing import Match, Route
from starlette.types import Scope

from captionkit.inference.model_folder import CONFIG, ModelFolder
from captionkit.inference.published.folder import PublishedFolder
from captionkit.serve.api.answers import Question, TextAnswer, answer
from captionkit.serve.api.ollama_requests import GenerateRequest, OllamaChatRequest, OllamaRequest, ShowRequest
from captionkit.serve.api.schemas import failures, json_body
from captionkit.serve.errors import RefusalError
from captionkit.serve.options import validated
from captionkit.serve.replies import (
    OllamaChatted,
    OllamaDetails,
    OllamaError,
    OllamaGenerated,
    OllamaMessage,
    OllamaModel,
    OllamaModels,
    OllamaShown,
    OllamaVersion,
    Reply,
    plain,
)
from captionkit.serve.request_parsing import CURL_TYPE, parse_json
from captionkit.serve.service import Service

#: the version of Ollama whose API this follows; clients refuse to talk to old ones
VERSION = "0.12.0"
_LINES = "application/x-ndjson"
_ANSWERS = {200: {"content": {_LINES: {}}}, **failures(OllamaError)}


def ollama(service: Service) -> APIRouter:
    """Return the router of the endpoints for `service`."""
    router = APIRouter(tags=["Ollama"])
    model = _model(service)

    @router.get("/api/version", summary="The version of the API", response_model=OllamaVersion)
    async def version() -> Response:
        return Reply(OllamaVersion(version=VERSION))

    @router.get("/api/tags", summary="The models, of which there is one", response_model=OllamaModels)
    async def tags() -> Response:
        return Reply(OllamaModels(models=[model]))

    @router.post(
        "/api/show",
        summary="The model",
        openapi_extra={"requestBody": json_body(ShowRequest)},
        response_model=OllamaShown,
        responses={404: {"description": "Another", "model": OllamaError}, **failures(OllamaError)},
    )
    async def show(request: Request) -> Response:
        name = validated(ShowRequest, await parse_json(request, CURL_TYPE)).asked
        if name not in (model.name, service.model):
            raise RefusalError(404, f"model {name!r} not found; there is {model.name!r}")
        return Reply(_shown(model))

    @router.post(
        "/api/generate",
        summary="Caption images",
        openapi_extra={"requestBody": json_body(GenerateRequest)},
        response_model=OllamaGenerated,
        responses=_ANSWERS,
    )
    async def generate(request: Request) -> Response:
        """Caption `images`, one line each. The prompt is ignored; without an image, the answer explains what the model
        does, and without a prompt it is empty, as for Ollama's clients that load a model before they use it.
        """
        asked = validated(GenerateRequest, await parse_json(request, CURL_TYPE))
        return await _reply(asked, request, service, lambda text: {"response": text}, OllamaGenerated, model.name)

    @router.post(
        "/api/chat",
        summary="Caption the images of a conversation",
        openapi_extra={"requestBody": json_body(OllamaChatRequest)},
        response_model=OllamaChatted,
        responses=_ANSWERS,
    )
    async def chat(request: Request) -> Response:
        """Caption the images of the user's last turn that has any, one line each. Text in messages is ignored. If there
        are no images, the answer explains what the model does.
        """
        asked = validated(OllamaChatRequest, await parse_json(request, CURL_TYPE))

        def said(text: str) -> dict[str, Any]:
            return {"message": OllamaMessage(role="assistant", content=text)}

        return await _reply(asked, request, service, said, OllamaChatted, model.name)

    return router


class _PlainRoute(Route):
    """A route for clients that do not name HTML among what they accept, as browsers do."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and "text/html" in Headers(scope=scope).get("accept", "").lower():
            return Match.NONE, {}
        return super().matches(scope)


def heartbeat() -> Route:
    """Return the route GET / for clients that look there for Ollama; the web page takes it for browsers."""

    async def running(_: Request) -> Response:
        return PlainTextResponse("Ollama is running", headers={"Vary": "Accept"})

    return _PlainRoute("/", running, methods=["GET"], include_in_schema=False)


async def _reply(
    asked: OllamaRequest,
    request: Request,
    service: Service,
    content: Callable[[str], dict[str, Any]],
    kind: type[OllamaGenerated] | type[OllamaChatted],
    model: str,
) -> Response:
    """Answer a request; `content` returns the field that holds a text, of an answer of a `kind`."""
    start = time.perf_counter_ns()
    asked.check(model)
    form = _Form(model, content, kind)
    if asked.only_loads:
        return Reply(form.part("", done_reason="unload" if asked.unloads else "load"))
    question: Question = asked.question(service)
    (found,) = await answer(question, request, service)
    ending = _ending(found, time.perf_counter_ns() - start)
    if asked.stream is False:
        return Reply(form.part(found.text, **ending))
    return StreamingResponse(form.lines(found, ending), media_type=_LINES)


@dataclass(frozen=True)
class _Form:
    """How the answers of an endpoint are written."""

    model: str
    content: Callable[[str], dict[str, Any]]
    kind: type[OllamaGenerated] | type[OllamaChatted]

    def part(self, text: str, *, done: bool = True, **more: Any) -> OllamaGenerated | OllamaChatted:
        created = _moment(time.time())
        return self.kind(model=self.model, created_at=created, **self.content(text), done=done, **more)

    def lines(self, found: TextAnswer, ending: dict[str, Any]) -> Iterator[str]:
        """Yield lines of JSON, one per word, although the search has already found the whole caption."""
        for piece in found.pieces():
            yield self._line(self.part(piece, done=False))
        yield self._line(self.part("", **ending))

    def _line(self, part: OllamaGenerated | OllamaChatted) -> str:
        return f"{json.dumps(plain(part))}\n"


def _ending(found: TextAnswer, nanoseconds: int) -> dict[str, Any]:
    """Return what the last part of an answer says besides; clients divide by durations, which therefore are not 0."""
    return {
        "done_reason": found.finish,
        "total_duration": nanoseconds,
        "load_duration": 0,
        "prompt_eval_count": 0,
        "prompt_eval_duration": max(1, round(found.encode_ms * 1e6)),
        "eval_count": found.tokens,
        "eval_duration": max(1, round(found.decode_ms * 1e6)),
    }


def _model(service: Service) -> OllamaModel:
    """Describe the model that is served. Ollama's names have a tag, `latest` unless another is named."""
    folder = service.captioner.folder
    name = service.model if ":" in service.model else f"{service.model}:latest"
    config, family = folder.path / CONFIG, _family(folder)
    return OllamaModel(
        name=name,
        model=name,
        modified_at=_moment(config.stat().st_mtime),
        size=sum((folder.path / graph).stat().st_size for graph in folder.graphs.values()),
        digest=hashlib.sha256(config.read_bytes()).hexdigest(),
        details=OllamaDetails(
            parent_model="",
            format="onnx",
            family=family,
            families=[family],
            parameter_size="",
            quantization_level="",
        ),
    )


def _family(folder: ModelFolder | PublishedFolder) -> str:
    if isinstance(folder, PublishedFolder):
        return str(folder.settings["model_type"])
    architecture = folder.section("architecture")
    return str(architecture.get("name") or architecture["decoder"]["name"])


def _shown(model: OllamaModel) -> OllamaShown:
    capabilities: list[Literal["completion", "vision"]] = ["completion", "vision"]
    return OllamaShown(
        license="",
        modelfile="",
        parameters="",
        template="",
        details=model.details,
        model_info={"general.architecture": model.details.family},
        capabilities=capabilities,
        modified_at=model.modified_at,
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
