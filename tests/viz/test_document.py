"""Documents as a page and as Markdown."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from captionkit.viz.document import (
    Bars,
    BulletList,
    Code,
    Document,
    Drawings,
    Fold,
    Gallery,
    Paragraph,
    Section,
    Shown,
    Table,
    TableRow,
)
from captionkit.viz.document_html import document_html
from captionkit.viz.document_markdown import document_markdown
from pages import check_page

NASTY = 'a <script>"dog"</script> | `cat` & [x](http://y) \ud800 *z*'
PHOTO = Image.new("RGB", (900, 300), "teal")
DOCUMENT = Document(
    title=NASTY,
    lead="What it is.",
    figures=[("CIDEr-D", "0.5", "more is better")],
    sections=[
        Section(
            "Words",
            [Paragraph(NASTY), Paragraph("mind this", warning=True), BulletList(["one", NASTY]), Code(f"```\n{NASTY}")],
        ),
        Section(
            "Figures",
            [
                Table(["score", "value"], [TableRow("BLEU", ["0.2"], "0 to 1"), TableRow(NASTY, [NASTY])]),
                Table(
                    ["result", "value"],
                    [TableRow("epochs", ["5"], "passes"), TableRow("minutes", ["22.5"])],
                    across=True,
                ),
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
