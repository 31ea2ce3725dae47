"""The options of a request: the fields of Decoding, with their help and bounds, and what to return with captions."""

from __future__ import annotations

import re
import secrets
from dataclasses import fields
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from captionkit.errors import CaptionkitError
from captionkit.inference.search import RENAMED, Decoding, present_names
from captionkit.publish.alt_text import LEAST_CHARS, MAX_CHARS
from captionkit.serve.errors import RefusalError
from captionkit.serve.service import CEILINGS

Model = TypeVar("Model", bound=BaseModel)

_PHRASES, _LETTERS = 100, 200
_SEEDS = 2**63
#: parts of pydantic's error locations that name a type or union branch instead of a field
_FORM = re.compile(r"[A-Z]|(constrained-)?str$|list\[")


def _split(value: Any) -> Any:
    """Return the phrases of a list or of comma-separated text, as in a query or a form."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(part, str) for part in parts):
        return value
    return [phrase.strip() for part in parts for phrase in part.split(",") if phrase.strip()]


_Phrase = Annotated[str, Field(max_length=_LETTERS)]
_Style = Literal["alt"]
_Phrases = Annotated[list[_Phrase], BeforeValidator(_split)]
#: the options that have several values
SEVERAL = {known.name for known in fields(Decoding) if isinstance(known.default, tuple)}
SEVERAL |= {old for old, name in RENAMED.items() if name in SEVERAL}
#: the options of /v1/captions that change its answer, and not how captions are made
ANSWER_OPTIONS = ("attention", "min_confidence", "style", "max_chars")


def _fields() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for known in fields(Decoding):
        kind, metadata = type(known.default), known.metadata
        about: dict[str, Any] = {"description": metadata["help"]}
        if kind in (int, float):
            about |= {"ge": metadata["low"], "le": CEILINGS.get(known.name, metadata["high"])}
        elif kind is str:
            about["max_length"] = _LETTERS
        else:
            kind, about["max_length"] = _Phrases, _PHRASES
        made[known.name] = (kind, Field(None, validate_default=False, **about))
    return made


def _renamed(given: dict[str, Any]) -> dict[str, Any]:
    try:
        return present_names(given)
    except CaptionkitError as error:  # which pydantic would not report as a wrong value
        raise ValueError(str(error)) from None


class _LenientModel(BaseModel):
    """Accepts values as other clients write them, and the names of options before they were renamed.

    null and a seed of -1 mean the default, a top_k of -1 means all words, and any integer is accepted as a seed.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, given: dict[str, Any]) -> dict[str, Any]:
        known = _renamed({name: value for name, value in given.items() if value is not None})
        if str(known.get("top_k")) == "-1":
            known["top_k"] = 0
        if str(known.get("seed")) == "-1":
            del known["seed"]
        elif type(known.get("seed")) is int:
            known["seed"] %= _SEEDS
        return known


#: fields that are omitted default to the model's own decoding
Options: Any = create_model(
    "Options",
    __base__=_LenientModel,
    __doc__="How captions are made. What is left out is as the model's makers chose.",
    **_fields(),
    attention=(bool, Field(False, description="also send where the model looked: for each word, rows of cells")),
    min_confidence=(
        float,
        Field(None, validate_default=False, ge=0, le=1, description="captions of less confidence have review: true"),
    ),
    style=(
        _Style,
        Field(None, validate_default=False, description="alt: each text is a sentence for who does not see the image"),
    ),
    max_chars=(
        int,
        Field(
            None,
            validate_default=False,
            ge=LEAST_CHARS,
            le=1000,
            description=f"characters of a text with style alt, at most; {MAX_CHARS} if left out",
        ),
    ),
)


class RequestOptions(NamedTuple):
    """Parsed options of a request: fields of Decoding, whether to return maps, and what changes the texts, if given."""

    decoding: dict[str, Any]
    maps: bool
    min_confidence: float | None
    style: str | None
    max_chars: int | None

    def over(self, other: RequestOptions) -> RequestOptions:
        """Merge with `other`; values given here take precedence."""
        decoding, maps, *given = self
        rest: list[Any] = [theirs if mine is None else mine for mine, theirs in zip(given, other[2:], strict=True)]
        return RequestOptions({**other.decoding, **decoding}, maps or other.maps, *rest)


def read_options(given: dict[str, Any]) -> RequestOptions:
    """Parse and validate options. Raises RefusalError (422) for invalid ones."""
    return split_options(validated(Options, given))


def validated(model: type[Model], given: dict[str, Any]) -> Model:
    """Return the fields of a request as a pydantic model. Raises RefusalError (422) for invalid ones."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise RefusalError(422, reason_of(error.errors())) from None


def split_options(options: BaseModel) -> RequestOptions:
    """Split validated options into fields of Decoding and those that change the answer."""
    given = options.model_dump(exclude_unset=True)
    maps, *rest = (given.pop(name, None) for name in ANSWER_OPTIONS)
    return RequestOptions(given, bool(maps), *rest)


def conversation_options(given: dict[str, Any] | None) -> dict[str, Any]:
    """Return those fields of a conversation's request that are options of decoding."""
    known = set(Options.model_fields).union(RENAMED).difference(ANSWER_OPTIONS)
    return {name: value for name, value in (given or {}).items() if name in known}


def decoding_fields(
    given: dict[str, Any],
    usual: Decoding,
    *,
    do_sample: bool | None = None,
    captions: int | None = None,
    words: int | None = None,
) -> dict[str, Any]:
    """Return the fields of Decoding for clients of other APIs.

    Such clients ask for a number of `captions` of at most `words` words, and expect samples without a seed to differ.
    Many send a temperature with every request, which would make captions worse; so captions are sampled only with
    `do_sample`, or where the model's own decoding samples. Raises RefusalError (422) for invalid options.
    """
    chosen = read_options(given).decoding
    sampled = bool(usual.temperature) if do_sample is None else do_sample
    temperature = (chosen.get("temperature") or usual.temperature or 1.0) if sampled else 0.0
    chosen["temperature"] = temperature
    if captions and "num_captions" not in chosen:
        chosen["num_captions"] = captions
        if not temperature:
            chosen["num_beams"] = max(captions, chosen.get("num_beams", usual.num_beams))
    if words:
        chosen["max_length"] = min(words, chosen.get("max_length", usual.max_length))
        chosen["min_length"] = min(chosen.get("min_length", usual.min_length), chosen["max_length"])
    if not temperature:
        chosen |= {"top_k": 0, "top_p": 1.0}
    elif "seed" not in chosen:
        chosen["seed"] = secrets.randbelow(_SEEDS)
    return chosen


def reason_of(errors: Any) -> str:
    """Format pydantic's errors in one line: the first of the most deeply nested ones, and how many more there are."""
    first = max(errors, key=lambda error: len(error["loc"]))
    parts = [str(part) for part in first["loc"] if part not in ("query", "body")]
    place = ".".join(part for part in parts if not _FORM.match(part)) or "the request"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"there is no option {place}; /docs lists them{more}"
    return f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}{more}"
