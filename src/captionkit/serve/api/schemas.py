"""OpenAPI schemas of requests whose bodies are parsed by hand, and the error responses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from captionkit.serve.options import ANSWER_OPTIONS, Options
from captionkit.serve.replies import Answer, ErrorAnswer
from captionkit.serve.request_parsing import MAX_IMAGES

_FILE = {"type": "string", "format": "binary"}
_ENCODED = {"type": "string", "format": "byte", "description": "base64, or a data: URL"}
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
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


def failures(model: type[Answer] = ErrorAnswer) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of an endpoint that takes images, by status."""
    return {status: {"description": text, "model": model} for status, text in _FAILURES.items()}


def captions_body() -> dict[str, Any]:
    """Return the schema of a body that is an image, a form with files and options, or JSON with images and options."""
    options = Options.model_json_schema()["properties"]
    images = {"minItems": 1, "maxItems": MAX_IMAGES}
    form = _object(["images"], images=_list(_FILE, **images), **options)
    sent = _object(["images"], images=_list(_ENCODED, **images), **options)
    return _image_body({"multipart/form-data": {"schema": form}, **_json(sent)})


def inputs_body(parameters: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a body that is an image or JSON in Hugging Face's format."""
    properties = Options.model_json_schema()["properties"]
    options = {name: schema for name, schema in properties.items() if name not in ANSWER_OPTIONS}
    inner = _object([], **parameters.model_json_schema()["properties"], **options)
    return _image_body(_json(_object(["inputs"], inputs=_ENCODED, parameters=inner)))


def _image_body(others: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {**others, **{kind: {"schema": _FILE} for kind in _IMAGE_TYPES}}}


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
