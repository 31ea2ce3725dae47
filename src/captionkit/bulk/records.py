"""Records: what a run writes about an image, the same whatever wrote it, wherever and when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from captionkit.bulk.items import Item
from captionkit.inference.captioner import Outcome

Record = dict[str, Any]


@dataclass(frozen=True)
class Marks:
    """Fingerprints of the model and of the decoding, 12 hexadecimal digits each; part of every record."""

    model: str
    decoding: str


def record_of(item: Item, outcome: Outcome, marks: Marks) -> Record:
    """Return the record of an image. Nothing in it, such as a time, differs from run to run."""
    record: Record = {"id": item.id, "path": item.path}
    if outcome.caption is None:
        record["error"] = outcome.error
    else:
        record["captions"] = [
            {"text": one.text, "log_prob": round(one.log_prob, 4), "confidence": round(one.confidence, 4)}
            for one in outcome.captions
        ]
        record["confidence"] = round(outcome.caption.confidence, 4)
        if outcome.caption.review is not None:
            record["review"] = outcome.caption.review
        if outcome.note:
            record["note"] = outcome.note
    return {**record, "model": marks.model, "decoding": marks.decoding}


def is_record(value: Any) -> bool:
    """Return whether a JSON value is a record that a bulk run wrote."""
    return isinstance(value, dict) and value.keys() >= {"id", "path", "model", "decoding"}


def to_line(record: Record) -> bytes:
    """Return a record as a JSON line; what is no Unicode in a name, as \\udcXX."""
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def kind_of(error: str, item: Item) -> str:
    """Return an error without the image's name, so that errors of one kind can be counted."""
    for name in (item.path, item.id):
        error = error.removeprefix(f"{name}: ")
    return error
