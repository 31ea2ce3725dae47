"""A place in a file where an alt text is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """Bytes `start` to `end` of a file, which `render(alt text)` replaces; `image` is what is shown there."""

    start: int
    end: int
    image: str
    render: Callable[[str], bytes]


def filled(content: bytes, gaps: Sequence[Gap], texts: Mapping[str, str]) -> bytes:
    """Return the content with the texts, by image reference, in its gaps; gaps without a text stay."""
    parts, place = [], 0
    for gap in sorted(gaps, key=lambda gap: gap.start):
        if gap.image in texts:
            parts += [content[place : gap.start], gap.render(texts[gap.image])]
            place = gap.end
    return b"".join([*parts, content[place:]])
