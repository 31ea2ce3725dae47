"""Docstrings as the site shows them: descriptions of arguments as lists, comments `#:` as docstrings of attributes."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

from griffe import Attribute, Docstring, Extension, Object

_BRACKET = re.compile(r"(`+[^`]*`+)|\[(?![^\[\]]*\]\()")  # code is left alone, and so are links
_ITEM = re.compile(r"^(\w+): ", re.MULTILINE)


class PlainDocstrings(Extension):
    """Reads what captionkit's docstrings say of arguments and attributes."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of a class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = with_lists(obj.docstring.value)

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Take the lines `#:` above an attribute as its docstring."""
        if not attr.docstring and (text := _comment(attr)):
            attr.docstring = Docstring(with_lists(text), parent=attr)


def with_lists(docstring: str) -> str:
    """Return a docstring in which each paragraph that describes arguments is a Markdown list."""
    shown = _BRACKET.sub(lambda match: match[1] or r"\[", docstring)  # shapes such as [B,K][0] are no references
    paragraphs = [dedent(text.removeprefix("Args:\n")) for text in shown.split("\n\n")]
    return "\n\n".join(_ITEM.sub(r"- `\1`: ", text) if _ITEM.match(text) else text for text in paragraphs)


def _comment(attr: Attribute) -> str:
    lines = list(attr.module.lines_collection[attr.module.filepath])
    above: list[str] = []
    for line in reversed(lines[: (attr.lineno or 1) - 1]):
        if not line.strip().startswith("#:"):
            break
        above.insert(0, line.strip()[2:].strip())
    return " ".join(above)
