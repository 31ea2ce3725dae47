"""The options of a request: the fields of Decoding, whose help and bounds they take, and whether to send maps."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from captionkit.search import Decoding
from captionkit.serve.errors import RefusalError
from captionkit.serve.service import CEILINGS

_PHRASES, _LETTERS = 100, 200


def _split(value: Any) -> Any:
    """Phrases from a list or a text with commas, as a query or a form has them."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(part, str) for part in parts):
        return value
    return [phrase.strip() for part in parts for phrase in part.split(",") if phrase.strip()]


_Phrase = Annotated[str, Field(max_length=_LETTERS)]
_Phrases = Annotated[list[_Phrase], BeforeValidator(_split)]


def _fields() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for known in fields(Decoding):
        kind, told = type(known.default), known.metadata
        about: dict[str, Any] = {"description": told["help"]}
        if kind in (int, float):
            about |= {"ge": told["low"], "le": CEILINGS.get(known.name, told["high"])}
        elif kind is str:
            about["max_length"] = _LETTERS
        else:
            kind, about["max_length"] = _Phrases, _PHRASES
        made[known.name] = (kind, Field(None, validate_default=False, **about))
    return made


#: left out, a field is the model's own
Options: Any = create_model(
    "Options",
    __config__=ConfigDict(extra="forbid", allow_inf_nan=False),
    __doc__="How captions are made. What is left out is as the model's makers chose.",
    **_fields(),
    attention=(bool, Field(False, description="also send where the model looked: for each word, rows of cells")),
)


def read_options(given: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The fields of Decoding that were given, and whether maps are wanted. RefusalError, 422, for what does not fit."""
    try:
        return split_options(Options.model_validate(given))
    except ValidationError as error:
        raise RefusalError(422, reason_of(error.errors())) from None


def split_options(options: BaseModel) -> tuple[dict[str, Any], bool]:
    """The fields of Decoding that were given, and whether maps are wanted."""
    given = options.model_dump(exclude_unset=True)
    return given, given.pop("attention", False)


def reason_of(errors: Any) -> str:
    """The first of pydantic's errors, in one line."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "body")) or "the request"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"there is no option {place}; /docs lists them{more}"
    return f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}{more}"
