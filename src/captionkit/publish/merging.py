"""What to do with a text that is there already: keep it, replace it, or add the caption to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Existing = Literal["skip", "overwrite", "append", "prepend"]
_BETWEEN = ", "  # as trainers separate tags and captions


@dataclass(frozen=True)
class Change:
    """A text that was written, or in a dry run would be: where, and what stood there before ("" if nothing did)."""

    where: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.where}: {self.before!r} -> {self.after!r}" if self.before else f"{self.where}: {self.after!r}"


def merged(before: str, text: str, existing: Existing) -> str | None:
    """Return what to write where `before` stands; None if it stays, as it does if it holds the text already.

    A blank `before` counts as nothing. Adding joins the two with ", ".
    """
    kept = before.strip()
    if not kept:
        return text
    if existing == "overwrite":
        return text if kept != text else None
    if existing == "append":
        return None if kept == text or kept.endswith(_BETWEEN + text) else f"{kept}{_BETWEEN}{text}"
    if existing == "prepend":
        return None if kept == text or kept.startswith(text + _BETWEEN) else f"{text}{_BETWEEN}{kept}"
    return None


def worded(caption: str, *, prepend: str = "", append: str = "") -> str:
    """Return the caption between two literal texts.

    A space is set where two words would grow together: after `prepend` unless it ends with white space, and before an
    `append` that begins with a letter or a digit.
    """
    gap_before = " " if prepend and not prepend[-1].isspace() else ""
    gap_after = " " if append[:1].isalnum() else ""
    return f"{prepend}{gap_before}{caption}{gap_after}{append}".strip()
