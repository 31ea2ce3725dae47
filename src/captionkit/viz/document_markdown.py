"""Render a document as Markdown that can be pasted into a README or a model card."""

from __future__ import annotations

import html
import re

from captionkit.viz.document import Bars, Block, BulletList, Code, Document, Drawings, Gallery, Paragraph, Table

_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


def document_markdown(document: Document) -> str:
    """Return the document's text, tables and links as Markdown; images are only in the HTML page."""
    parts = [f"# {_text(document.title)}", _text(document.lead)]
    for section in document.sections:
        parts += [f"## {_text(section.heading)}", *map(_block, section.blocks)]
    parts.append(_text(document.made_by))
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _across(block) if block.across else _table(block)
    if isinstance(block, Paragraph):
        return f"> **Note:** {_text(block.text)}" if block.warning else _text(block.text)
    if isinstance(block, BulletList):
        return "\n".join(f"- {_text(item)}" for item in block.items)
    if isinstance(block, Code):
        return _fenced(block.text)
    if isinstance(block, Bars):
        return _lines(["what", "share", "time"], [[name, f"{share:.0%}", said] for name, share, said, _ in block.rows])
    if isinstance(block, Drawings):
        shown = ", ".join(title for title, _, _ in block.drawings)
        return f"![{_text(shown)}]({block.instead})"
    if isinstance(block, Gallery):
        return _gallery(block)
    inner = "\n\n".join(map(_block, block.blocks))
    return f"<details><summary>{html.escape(block.summary)}</summary>\n\n{inner}\n\n</details>"


def _table(table: Table) -> str:
    explained = any(row.meaning for row in table.rows)
    rows = [[row.name, *row.values, *([row.meaning] if explained else [])] for row in table.rows]
    return _lines([*table.columns, *([table.explained] if explained else [])], rows)


def _across(table: Table) -> str:
    return _lines([row.name for row in table.rows], [[row.values[0] for row in table.rows]])


def _lines(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell if cell == '---' else _text(cell) for cell in line)} |" for line in lines)


def _gallery(gallery: Gallery) -> str:
    lines = [f"**{_text(gallery.heading)}**", ""] if gallery.heading else []
    for shown in gallery.shown:
        said = f"*no image: {_text(shown.error)}*" if shown.error else f"“{_text(shown.caption)}”"
        people = f"; people: “{_text(shown.references[0])}”" if shown.references else ""
        score = f" ({_text(shown.score)})" if shown.score else ""
        lines.append(f"- {_text(shown.label)}: {said}{score}{people}")
    return "\n".join(lines)


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{_known(text).strip()}\n{fence}"


def _text(text: str) -> str:
    """Escape text to a single line that Markdown renders literally."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(_known(text).split()), quote=False))


def _known(text: str) -> str:
    """Replace lone surrogates, which stand for undecodable bytes in a file name."""
    return text.encode("utf-8", "replace").decode("utf-8")
