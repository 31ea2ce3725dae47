"""Markdown (CommonMark): `![](image)`, `![][label]` and `<img>` without `alt`; never within code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from captionkit.errors import CaptionkitError
from captionkit.publish.pages import html
from captionkit.publish.pages.gap import Gap

if TYPE_CHECKING:
    from markdown_it.token import Token

_SPECIAL = re.compile(r"([\\\[\]*_`<>&!])")
_FRONT_MATTER = re.compile(r"\A---\r?\n.*?^(---|\.\.\.)\s*$", re.DOTALL | re.MULTILINE)


def gaps(content: bytes) -> list[Gap]:
    """Return the images without alt text. Raises CaptionkitError for a file that is not UTF-8."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise CaptionkitError("is not UTF-8; save it as UTF-8") from None
    return sorted([*_brackets(text), *_tags(text)], key=lambda gap: gap.start)


def _parse(text: str) -> list[Token]:
    from markdown_it import MarkdownIt

    front = _FRONT_MATTER.match(text)
    blank = re.sub(r"[^\n]", " ", front[0]) if front else ""  # YAML, which a parser would take for a heading
    return MarkdownIt("commonmark").enable("table").parse(blank + text[len(blank) :])


def _brackets(text: str) -> Iterator[Gap]:
    """Yield the empty brackets that are images to the parser: it shows which if each is filled with a mark."""
    places = [match.end() - 1 for match in re.finditer(r"!\[\]", text)]
    marks = {f"captionkit{number}mark": place for number, place in enumerate(places)}
    parts = [text[low:high] for low, high in zip([0, *places], [*places, len(text)], strict=True)]
    marked = "".join(part + mark for part, mark in zip(parts, [*marks, ""], strict=True))
    for token in _parse(marked) if places else ():
        for child in token.children or ():
            if child.type == "image" and child.content in marks:
                at = len(text[: marks[child.content]].encode())
                yield Gap(at, at, str(child.attrs.get("src", "")), _escaped)


def _escaped(text: str) -> bytes:
    return _SPECIAL.sub(r"\\\1", text).encode()


def _tags(text: str) -> Iterator[Gap]:
    """Yield the gaps in tags, of which blocks of HTML and paragraphs have some."""
    starts = [0, *accumulate(len(line) for line in re.findall(r"[^\n]*\n|[^\n]+", text))]
    for token in _parse(text) if "<img" in text.casefold() else ():
        if token.map is None:
            continue
        low, high = starts[token.map[0]], starts[min(token.map[1], len(starts) - 1)]
        if token.type == "html_block":
            yield from _within(text, low, high)
        elif token.type == "inline":
            yield from _inline(text, low, token.children or ())


def _inline(text: str, place: int, children: Sequence[Token]) -> Iterator[Gap]:
    """Yield the gaps in the tags of a paragraph, which stand in it in the order of its parts."""
    for child in children:
        if child.type in ("html_inline", "code_inline") and (found := text.find(child.content, place)) >= 0:
            place = found + len(child.content)
            if child.type == "html_inline":
                yield from _within(text, found, place)


def _within(text: str, low: int, high: int) -> Iterator[Gap]:
    offset = len(text[:low].encode())
    for gap in html.gaps(text[low:high].encode()):
        yield replace(gap, start=gap.start + offset, end=gap.end + offset)
