"""Validation of config tables: a table must hold exactly the fields of a dataclass, and only plain values."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from captionkit.errors import ModelError


def check_fields(kind: type, values: Any, table: str) -> None:
    """Raise ModelError if `values` is not a mapping or has a field that `kind` lacks; name the closest match."""
    if not isinstance(values, Mapping):
        raise ModelError(f"{table}: must be a table of fields, not {reprlib.repr(values)}")
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise ModelError(f"{table} has no field {reprlib.repr(name)}; {nearest(str(name), known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown `name`: the known name nearest to it, or all of them."""
    close = get_close_matches(name, known := list(known), n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
