"""Missing alt text in pages: only what is missing is filled, and every other byte stays."""

from __future__ import annotations

import csv
import io
import os
import shutil
import stat
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import captionkit
from captionkit.cli import main as cli
from captionkit.errors import CaptionkitError
from captionkit.publish.pages import html, markdown, table
from captionkit.publish.pages.gap import Gap, filled
from captionkit.publish.site import pages

EXAMPLES = Path(captionkit.__file__).parent / "assets" / "examples"
ALT = 'A "dog" & [a] *cat*, é.'


def check(gaps: Callable[[bytes], list[Gap]], content: bytes, images: list[str]) -> bytes:
    """Fill the gaps and return the result; what is filled leaves no gap, and without it the file is the old one."""
    found = gaps(content)
    assert [gap.image for gap in found] == images
    result = filled(content, found, dict.fromkeys(images, ALT))
    assert gaps(result) == []
    place = 0
    for gap in found:
        text = gap.render(ALT)
        at = result.index(text, place)
        assert result[place:at] == content[gap.start - (at - place) : gap.start]
        place = at + len(text)
    assert content.endswith(result[place:])
    return result


class Images(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


HTML = b"""<!doctype html>\r
<!-- <img src=no.png> --><IMG SRC='a b.png'
 width=1><img src=x.png alt><img alt="" src=y.png><img alt = mine src=z.png><script>"<img src=no.png>"</script>
<style>/* <img src=no.png> */</style><img src="q.png?x=1&amp;y"/><img role=presentation src=no.png>
<img aria-label=x src=no><p title="<img src=no.png>"><img data-src=lazy.jpg src="data:image/gif;base64,R0"><img></p>
<?php echo "x" ?><pre>\xc3\xa9</pre>"""


def test_images_of_html_that_lack_an_alt_attribute() -> None:
    result = check(html.gaps, HTML, ["a b.png", "q.png?x=1&y", "lazy.jpg"])
    before, after = Images(HTML.decode()).found, Images(result.decode()).found
    assert [new if "alt" in old else {**new, "alt": None} for old, new in zip(before, after, strict=True)] == [
        old if "alt" in old else {"alt": None, **old} for old in before
    ]
    assert [new["alt"] for old, new in zip(before, after, strict=True) if "alt" not in old and "alt" in new] == [
        ALT
    ] * 3


def test_a_page_in_an_old_encoding_keeps_it() -> None:
    content = "<p>Über</p><img src='grün.png'>".encode("latin-1")
    (gap,) = html.gaps(content)
    assert filled(content, [gap], {gap.image: "Ein Café."}) == content.replace(b"<img", b'<img alt="Ein Caf&#233;."')
    with pytest.raises(CaptionkitError, match="UTF-16"):
        html.gaps("<img src=a.png>".encode("utf-16"))


MARKDOWN = """---
title: ![](no.png)
---
# H ![](a.png)

`![](no.png)` and ![](<b c.png> "t") \\![](no.png) ![x](no.png)

```
![](no.png) <img src=no.png>
```
    ![](no.png)

- ![][ref] [![](badge.png)](http://x) <a href=x><img src="in.png"></a> `<img src="in.png">` é ![](https://x/y.png)

> ![](quote.png)

| a | b |
|---|---|
| ![](t.png) | ![][no] |

<p align="center">
<img src="blk.png">
</p>

[ref]: r.png
"""


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_images_of_markdown_without_a_text(ending: str) -> None:
    content = MARKDOWN.replace("\n", ending).encode()
    images = ["a.png", "b%20c.png", "r.png", "badge.png", "in.png", "https://x/y.png", "quote.png", "t.png", "blk.png"]
    result = check(markdown.gaps, content, images).decode()
    from markdown_it import MarkdownIt, __version__

    if tuple(map(int, __version__.split(".")[:2])) < (4, 3):
        pytest.skip("markdown-it-py before 4.3 shows descriptions without their escaped characters")
    shown = MarkdownIt("commonmark").enable("table").render(result[result.index("# H") :])
    alts = [image.get("alt") for image in Images(shown).found]
    assert alts.count(ALT) == 9 and alts.count("x") == 1 and len(alts) == 10


@pytest.mark.parametrize(
    ("content", "images"),
    [
        (
            b'\xef\xbb\xbfimage;"alt";x\r\na.jpg;;1\r\n"b;1.jpg";"";2\r\nc.jpg;has;3\r\n;;4\r\nd.jpg;;',
            ["a.jpg", "b;1.jpg", "d.jpg"],
        ),
        (b'alt,file_name\n,"a ""b"".jpg"\n"two\nlines",c.jpg\n  ,d.jpg\n', ['a "b".jpg', "d.jpg"]),
        (b"Image\tAlt\na.jpg\t\n\nb.jpg\n", ["a.jpg"]),
    ],
)
def test_empty_cells_of_a_table(content: bytes, images: list[str]) -> None:
    result = check(table.gaps, content, images)
    delimiter = {0xEF: ";", ord("a"): ",", ord("I"): "\t"}[content[0]]
    before, after = (
        list(csv.reader(io.StringIO(data.decode("utf-8-sig")), delimiter=delimiter)) for data in (content, result)
    )
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == len(images) and all(ALT in new for _, new in changed)


@pytest.mark.parametrize(
    ("content", "told"), [(b"a,b\n1,2\n", "has no column 'alt'"), (b'image,alt\n"a,b\n', "not closed")]
)
def test_a_table_that_cannot_be_filled(content: bytes, told: str) -> None:
    with pytest.raises(CaptionkitError, match=told):
        table.gaps(content)


PARTS = "<img src=a.png>|<img alt src=b>|<!--|-->|<script>|</script>|`|``|\n|\n\n| |![](c.png)|![]|\\|é|>|&|- |    |```"


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([*PARTS.split("|"), '"', "'"]), max_size=14))
def test_whatever_a_file_holds_its_other_bytes_stay(parts: list[str]) -> None:
    content = "".join(parts).encode()
    for gaps in (html.gaps, markdown.gaps):
        found = gaps(content)
        assert filled(content, found, {}) == content
        result = filled(content, found, {gap.image: ALT for gap in found})
        for gap in found:
            result = result.replace(gap.render(ALT), b"", 1)
        assert result == content


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site of five pages."""
    root = tmp_path / "site"
    (root / "blog").mkdir(parents=True)
    shutil.copytree(EXAMPLES, root / "img")
    pages = {
        "index.html": "<html>\r\n<img src='img/cat.jpg'>\r\n<img src=img/camera.jpg alt=''><img alt=Mine src=/x.jpg>",
        "blog/one.htm": "<img\n src=/img/camera.jpg><img src='../img/cat.jpg#x'>",
        "blog/two.md": "# Two\n\n![](../img/astronaut.jpg) `![](../img/cat.jpg)`\n\n![kept](../img/cat.jpg)",
        "products.csv": 'image,alt\nimg/cat.jpg,\nimg/camera.jpg,"has, one"\n',
        "about.html": "<p>none</p>",
    }
    for name, text in pages.items():
        (root / name).write_bytes(text.encode())
    (root / "prices.csv").write_text("a,b\n1,\n")
    return root


def test_a_site_is_filled_once(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in site.rglob("*") if path.is_file()}

    before = contents()
    os.chmod(site / "index.html", 0o640)  # noqa: PTH101
    assert cli.main(["alttext", str(site), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert contents() == before and out.count("\n+++ ") == 4 and "-![](../img/astronaut.jpg)" in out
    assert cli.main(["alttext", str(site), "--max-chars", "60"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 5 and "5 alt texts filled in 4 files" in err
    after = contents()
    assert {name for name in after if after[name] != before[name]} == {
        "index.html",
        "one.htm",
        "two.md",
        "products.csv",
    }
    alts = [image["alt"] or "" for name in ("index.html", "one.htm") for image in Images(after[name].decode()).found]
    assert alts[1:3] == ["", "Mine"] and all(0 < len(alts[number]) <= 60 for number in (0, 3, 4))
    assert stat.S_IMODE((site / "index.html").stat().st_mode) == 0o640
    assert cli.main(["alttext", str(site)]) == 0
    assert capsys.readouterr().out == "" and contents() == after


def test_images_that_cannot_be_captioned_are_named_and_the_rest_goes_on(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = site.parent / "secret.jpg"
    shutil.copy(EXAMPLES / "cat.jpg", secret)
    (site / "broken.png").write_bytes(b"no image")
    sources = [
        "../secret.jpg",
        "https://x.org/a.jpg",
        "//x.org/a.jpg",
        "gone.png",
        "broken.png",
        "data:image/png;base64,xx",
        "img",
        "img/cat.jpg",
    ]
    (site / "index.html").write_text("".join(f"<img src='{source}'>" for source in sources))
    assert cli.main(["alttext", str(site / "index.html")]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{site}/index.html\timg/cat.jpg\t") and out.count("\n") == 1
    for told in (
        "lies outside",
        "elsewhere on the web",
        "is not there",
        "broken.png: not an image",
        "stands in the page itself",
    ):
        assert told in err
    assert (site / "index.html").read_text().count("alt=") == 1


def test_a_page_that_changed_meanwhile_is_left_alone(site: Path) -> None:
    page = next(page for page in pages(site / "index.html") if not isinstance(page, CaptionkitError))
    (site / "index.html").write_text("edited")
    with pytest.raises(CaptionkitError, match="was changed"):
        page.write(dict.fromkeys(page.images.values(), "x"))
    assert (site / "index.html").read_text() == "edited"


def test_a_folder_without_pages_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["alttext", str(tmp_path)]) == 1
    assert f"{tmp_path}: no pages in this folder; looked for .html" in capsys.readouterr().err
