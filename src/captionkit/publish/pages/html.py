"""HTML: `<img>` without an `alt` attribute. An empty one marks a decorative image and stays."""

from __future__ import annotations

import re
from functools import partial
from html import escape
from html.parser import HTMLParser

from captionkit.errors import CaptionkitError
from captionkit.publish.pages.gap import Gap

#: attributes that name an image, or say that it has no meaning
_NAMED = {"alt", "aria-label", "aria-labelledby"}
_DECORATIVE = {("role", "presentation"), ("role", "none"), ("aria-hidden", "true")}


def gaps(content: bytes) -> list[Gap]:
    """Return the images without alt text. Raises CaptionkitError for an encoding in which tags are not ASCII."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CaptionkitError("is in UTF-16; save it as UTF-8")
    parser = _Images(content)
    parser.feed(content.decode("latin-1"))  # a character a byte, so that places in the text are places in the file
    parser.close()
    return parser.gaps


class _Images(HTMLParser):
    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=False)
        self.gaps: list[Gap] = []
        self._lines = [0, *(match.end() for match in re.finditer(b"\n", content))]
        self._encoding = _encoding(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an image without alt text."""
        values = {name: value or "" for name, value in attrs}
        if tag != "img" or _NAMED & values.keys() or _DECORATIVE & set(values.items()):
            return
        source = values.get("src", "")
        if not source or source.startswith("data:"):  # until a script loads the image
            source = values.get("data-src", source)
        if source:
            line, column = self.getpos()
            place = self._lines[line - 1] + column + len("<img")
            self.gaps.append(Gap(place, place, self._decoded(source), partial(_attribute, encoding=self._encoding)))

    def _decoded(self, source: str) -> str:
        return source.encode("latin-1", "ignore").decode(self._encoding, "replace")


def _attribute(text: str, *, encoding: str) -> bytes:
    return f' alt="{escape(text)}"'.encode(encoding, "xmlcharrefreplace")


def _encoding(content: bytes) -> str:
    """Return UTF-8 if the content is; else ASCII, which every other encoding of pages includes."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "ascii"
    return "utf-8"
