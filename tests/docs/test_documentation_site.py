"""The documentation site: links, pages made of the code, and what its hooks make of Markdown and docstrings."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("pydantic", reason="the extra `train` is not installed")

import captionkit
import reference_pages
from captionkit.cli.main import _GROUPS
from documents import PAGES, ROOT, text_of


def heading_id(line: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", text_of(page)):
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ .*$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(heading_id, headings), f"{page}: {target}#{anchor}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = text_of("mkdocs.yml").partition("\nnav:")[2]
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    named = set(re.findall(r"([\w/-]+\.md)$", navigation, re.MULTILINE))
    made = {"index.md", "contributing.md", "changelog.md"}
    assert pages == {name for name in named if not name.startswith("reference/")} - made


def test_the_python_reference_has_every_public_name() -> None:
    page = reference_pages.python_page()
    for name, module in captionkit._MODULES.items():
        assert f"::: captionkit.{module}.{name}\n" in page


def test_the_reference_of_the_command_line_has_every_command_and_its_options() -> None:
    page = reference_pages.command_line_page()
    assert set(re.findall(r"^### captionkit (.*)$", page, re.MULTILINE)) == set().union(*_GROUPS.values())
    for shown in ("`--num-beams N`", "`--output FILE`", "`--recipe NAME|FILE`", "`IMAGE ...`", r"\*.jpg"):
        assert shown in page
    assert "--beam " not in page and "SUPPRESS" not in page


def test_links_lead_from_the_page_that_the_site_makes_of_a_file() -> None:
    site_pages = pytest.importorskip("site_pages", reason="the extra `docs` is not installed")

    def led(markdown: str, written: str, uri: str) -> str:
        return site_pages.site_links(markdown, written, uri, "https://host/repo")

    assert led("[a](docs/serve.md#errors)", "README.md", "index.md") == "[a](serve.md#errors)"
    assert led("[b](../../README.md)", "docs/tutorial/x.md", "tutorial/x.md") == "[b](../index.md)"
    assert led("[c](../bench/speed.py)", "docs/x.md", "x.md") == "[c](https://host/repo/blob/main/bench/speed.py)"
    assert led("[serve.md](serve.md)", "docs/x.md", "x.md") == "[Serve captions over HTTP](serve.md)"
    assert led("[d](nothing.py)", "docs/x.md", "x.md") == "[d](nothing.py)"
    assert led("[e](https://host/x.md)", "docs/x.md", "x.md") == "[e](https://host/x.md)"


def test_descriptions_of_arguments_become_lists() -> None:
    plain_docstrings = pytest.importorskip("plain_docstrings", reason="the extra `docs` is not installed")
    written = "Do it.\n\nArgs:\n    one: the first, [B,K]\n        or none.\n    two: the `x[0]`.\n\nRaises nothing."
    shown = plain_docstrings.with_lists(written)
    assert shown == "Do it.\n\n- `one`: the first, \\[B,K]\n    or none.\n- `two`: the `x[0]`.\n\nRaises nothing."


def test_tex_becomes_mathml() -> None:
    site_pages = pytest.importorskip("site_pages", reason="the extra `docs` is not installed")
    html = site_pages.on_page_content(r'<p><span class="arithmatex">\(a &lt; b_1\)</span></p>')
    assert "<math" in html and "<mo>&#x0003C;</mo>" in html and "<msub>" in html and "arithmatex" not in html
