"""A report as blocks in sections, from which `document_html` and `document_markdown` write a page and a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Union

from PIL import Image


@dataclass(frozen=True)
class Row:
    """One thing in a table: its name, its values, and in half a sentence what it is."""

    name: str
    values: Sequence[str]
    meaning: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under `columns`, the first of which names the things. In Markdown a table with `across` lies on its side:
    one line for the whole, to stand among those of other runs.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    across: bool = False
    #: what Markdown's column of meanings is called
    explained: str = "what it is"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; a `warning` is marked as one."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Listing:
    """Things one below the other."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """A command or a file, as it is typed."""

    text: str


@dataclass(frozen=True)
class Bars:
    """Shares of a whole: name, share from 0 to 1, the value in words, and what it is."""

    rows: Sequence[tuple[str, float, str, str]]


@dataclass(frozen=True)
class Drawings:
    """SVG drawings with what they show, as a heading and in words; Markdown links to the file `instead`."""

    drawings: Sequence[tuple[str, str, bytes]]
    instead: str


@dataclass(frozen=True)
class Shown:
    """A captioned image."""

    label: str
    photo: Image.Image | None = None
    caption: str = ""
    references: Sequence[str] = ()
    #: its score in words, empty if unknown
    score: str = ""
    #: why there is no image
    error: str = ""
    #: the image once more for each word, where there is such a strip
    strip: Image.Image | None = None


@dataclass(frozen=True)
class Gallery:
    """Captioned images under a heading, which may be empty."""

    heading: str
    pictures: Sequence[Shown]


@dataclass(frozen=True)
class Fold:
    """Blocks that are there for who asks for them."""

    summary: str
    blocks: Sequence[Block]


Block = Union[Table, Paragraph, Listing, Code, Bars, Drawings, Gallery, Fold]  # noqa: UP007  (it names itself)


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A report. `figures` stand at the top of the page in large type: name, value, and what it is."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str, str]] = ()
    sections: Sequence[Section] = field(default=())
    #: the last line
    made_by: str = ""
