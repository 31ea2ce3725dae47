"""The structure of a report: sections of blocks, rendered by `document_html` and `document_markdown`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Union

from PIL import Image


@dataclass(frozen=True)
class TableRow:
    """A table row: its name, its values, and a short explanation."""

    name: str
    values: Sequence[str]
    meaning: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under `columns`, of which the first holds the row names.

    In Markdown a table with `across` is transposed to a single line, to be combined with those of other runs.
    """

    columns: Sequence[str]
    rows: Sequence[TableRow]
    across: bool = False
    #: heading of the column of explanations in Markdown
    explained: str = "what it is"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, highlighted if it is a `warning`."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class BulletList:
    """A bulleted list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """A code block: a command or the content of a file."""

    text: str


@dataclass(frozen=True)
class Bars:
    """Shares of a whole: name, share from 0 to 1, the value as text, and a short explanation."""

    rows: Sequence[tuple[str, float, str, str]]


@dataclass(frozen=True)
class Drawings:
    """SVG drawings as (title, description in words, SVG); Markdown links to the file `instead`."""

    drawings: Sequence[tuple[str, str, bytes]]
    instead: str


@dataclass(frozen=True)
class Shown:
    """A captioned image."""

    label: str
    photo: Image.Image | None = None
    caption: str = ""
    references: Sequence[str] = ()
    #: its score as text, empty if unknown
    score: str = ""
    #: the reason if there is no image
    error: str = ""
    #: the attention strip, with the image repeated for each word, if there is one
    strip: Image.Image | None = None


@dataclass(frozen=True)
class Gallery:
    """Captioned images under an optional heading."""

    heading: str
    shown: Sequence[Shown]


@dataclass(frozen=True)
class Fold:
    """Blocks that are collapsed until the reader opens them."""

    summary: str
    blocks: Sequence[Block]


Block = Union[Table, Paragraph, BulletList, Code, Bars, Drawings, Gallery, Fold]  # noqa: UP007  (it names itself)


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A report. `figures` are shown in large type at the top of the page: name, value and a short explanation."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str, str]] = ()
    sections: Sequence[Section] = field(default=())
    #: the last line
    made_by: str = ""
