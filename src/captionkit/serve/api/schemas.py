"""OpenAPI schemas of the requests and responses that are parsed and built by hand."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from captionkit.serve.options import Options
from captionkit.serve.request_parsing import MOST_PICTURES

_FILE = {"type": "string", "format": "binary"}
_NUMBER, _TEXT = {"type": "number"}, {"type": "string"}
_ENCODED = {"type": "string", "format": "byte", "description": "base64, or a data: URL"}
_PICTURES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
_FAILURES = {
    400: "The body is not what its content type says",
    401: "The token is missing or wrong",
    408: "The upload took too long",
    413: "Too many bytes, pixels or images",
    415: "A content type that is not taken",
    422: "No image that can be decoded, or options that do not fit",
    429: "Too many images wait; `Retry-After` says in how many seconds to try again",
    504: "No caption in time",
}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Any, **bounds: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **bounds}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


_WORD = _object(["text", "confidence"], text=_TEXT, confidence=_NUMBER, attention=_list(_list(_NUMBER)))
_REVIEW = {
    "type": "boolean",
    "description": "whether confidence is below min_confidence; only where that was given",
}
_CAPTION = _object(
    ["text", "log_prob", "confidence", "words"],
    text=_TEXT,
    log_prob=_NUMBER,
    confidence=_NUMBER,
    review=_REVIEW,
    words=_list(_WORD),
)
_RESULT = _object(
    ["path"],
    path={"type": "string", "description": "the file's name, or the image's place in the request"},
    captions=_list(_CAPTION),
    review=_REVIEW,
    ms=_object(["open", "encode", "decode"], open=_NUMBER, encode=_NUMBER, decode=_NUMBER),
    error={"type": "string", "description": "why this image has no captions"},
)
CAPTIONS = {
    "description": "A result for each image, in order; captions best first",
    "content": _json(_object(["model", "results"], model=_TEXT, results=_list(_RESULT))),
}
GENERATED = {
    "description": "The caption",
    "content": _json(_list(_object(["generated_text"], generated_text=_TEXT))),
}
COMPLETION = {
    "description": "OpenAI's completion object, or its chunks as server-sent events",
    "content": {
        **_json(_object(["id", "object", "created", "model", "choices", "usage"], choices=_list({"type": "object"}))),
        "text/event-stream": {"schema": _TEXT},
    },
}
_MODEL = _object(["id", "object", "created", "owned_by"], id=_TEXT, object=_TEXT, created=_NUMBER, owned_by=_TEXT)
MODEL = {"description": "The model", "content": _json(_MODEL)}
MODELS = {
    "description": "A list of one model",
    "content": _json(_object(["object", "data"], object=_TEXT, data=_list(_MODEL))),
}


def failures() -> dict[int | str, dict[str, Any]]:
    """Return the schemas of the error responses, by status."""
    told = _object(["message", "type", "status"], message=_TEXT, type=_TEXT, status={"type": "integer"})
    return {
        status: {"description": text, "content": _json(_object(["error"], error=told))}
        for status, text in _FAILURES.items()
    }


def captions_body() -> dict[str, Any]:
    """Return the schema of a body that is an image, a form with files and options, or JSON with images and options."""
    options = Options.model_json_schema()["properties"]
    pictures = {"minItems": 1, "maxItems": MOST_PICTURES}
    form = _object(["images"], images=_list(_FILE, **pictures), **options)
    sent = _object(["images"], images=_list(_ENCODED, **pictures), **options)
    return _picture_body({"multipart/form-data": {"schema": form}, **_json(sent)})


def inputs_body(parameters: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a body that is an image or JSON in Hugging Face's format."""
    options = Options.model_json_schema()["properties"]
    del options["attention"], options["min_confidence"]
    inner = _object([], **parameters.model_json_schema()["properties"], **options)
    return _picture_body(_json(_object(["inputs"], inputs=_ENCODED, parameters=inner)))


def _picture_body(others: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {**others, **{kind: {"schema": _FILE} for kind in _PICTURES}}}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a JSON body with the fields of a pydantic model."""
    schema = model.model_json_schema()
    return {"required": True, "content": _json(_inlined(schema, schema.pop("$defs", {})))}


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """Return a schema with its references replaced by the definitions in `parts`."""
    if isinstance(schema, list):
        return [_inlined(entry, parts) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
    return {name: _inlined(value, parts) for name, value in schema.items()}
