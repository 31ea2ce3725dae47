"""Documents as a page and as Markdown."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from PIL import Image

from captionkit.viz.document import (
    Bars,
    Code,
    Document,
    Drawings,
    Fold,
    Gallery,
    Listing,
    Paragraph,
    Row,
    Section,
    Shown,
    Table,
)
from captionkit.viz.document_html import document_html
from captionkit.viz.document_markdown import document_markdown

NASTY = 'a <script>"dog"</script> | `cat` & [x](http://y) \ud800 *z*'
PHOTO = Image.new("RGB", (900, 300), "teal")
DOCUMENT = Document(
    title=NASTY,
    lead="What it is.",
    figures=[("CIDEr-D", "0.5", "more is better")],
    sections=[
        Section(
            "Words",
            [Paragraph(NASTY), Paragraph("mind this", warning=True), Listing(["one", NASTY]), Code(f"```\n{NASTY}")],
        ),
        Section(
            "Figures",
            [
                Table(["score", "value"], [Row("BLEU", ["0.2"], "0 to 1"), Row(NASTY, [NASTY])]),
                Table(["result", "value"], [Row("epochs", ["5"], "passes"), Row("minutes", ["22.5"])], across=True),
                Bars([("steps", 0.75, "3 min", "learning"), ("other", 0.25, "1 min", "")]),
                Drawings([("Loss", "it falls", b"<svg xmlns='http://www.w3.org/2000/svg'/>")], "curves.png"),
            ],
        ),
        Section(
            "Pictures",
            [
                Gallery(
                    "The best", [Shown("a.jpg", PHOTO, NASTY, ["one", "two"], "CIDEr-D 3.1"), Shown("b", error="torn")]
                ),
                Gallery("", [Shown("c.jpg", caption="a cat", strip=PHOTO)]),
                Fold("All of it", [Code("[run]")]),
            ],
        ),
    ],
    made_by="Written by a test",
)


class Outline(HTMLParser):
    """What a page is built of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check_page(page: str) -> Outline:
    """A page that is whole, fetches nothing, runs nothing, and can be read by ear."""
    outline = Outline(page)
    assert outline.open == []
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in outline.tags}
    for _, attributes in outline.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href", "srcset", "action") or re.match(r"data:image/|#s\d+$", value or "")
    assert "@import" not in page and "url(" not in page
    assert all(attributes.get("alt") for attributes in outline.all("img"))
    assert all(attributes.get("scope") for attributes in outline.all("th"))
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and {f"#{i}" for i in ids} == {a["href"] for a in outline.all("a")}
    return outline


def test_the_page_is_whole_alone_and_can_be_read_by_ear() -> None:
    page = document_html(DOCUMENT)
    outline = check_page(page)
    assert "&lt;script&gt;" in page and "<script" not in page
    assert len(outline.all("img")) == 3 and len(outline.all("table")) == 3
    assert [attributes["width"] for attributes in outline.all("img") if "width" in attributes] == ["480", "900"]
    for text in ("mind this", "CIDEr-D 3.1", "No image: torn", "a cat", "All of it", "75%", "Written by a test"):
        assert text in page
    assert check_page(document_html(Document("empty", ""))).all("section") == []


def test_markdown_keeps_its_tables_whatever_is_in_them() -> None:
    text = document_markdown(DOCUMENT)
    assert "| epochs | minutes |\n| --- | --- |\n| 5 | 22.5 |" in text  # lies on its side
    assert "| score | value | what it is |\n| --- | --- | --- |\n| BLEU | 0.2 | 0 to 1 |" in text
    for line in text.splitlines():
        if line.startswith("| a "):
            assert len(re.findall(r"(?<!\\)\|", line)) == 4
    assert "![Loss](curves.png)" in text and "data:" not in text
    assert "````\n```\n" in text  # a fence longer than what it holds
    assert "“a &lt;script&gt;" in text and "(CIDEr-D 3.1); people: “one”" in text
    assert "- b: *no image: torn*" in text and "> **Note:** mind this" in text
    assert text.encode("utf-8") and text.count("\n# ") == 0 and text.startswith("# a ")


@pytest.mark.parametrize("mark", ["*", "_", "`", "[", "|", "~", "\\"])
def test_marks_of_markdown_are_only_text(mark: str) -> None:
    text = document_markdown(Document("t", f"a {mark}b{mark} c"))
    assert f"a \\{mark}b\\{mark} c" in text
