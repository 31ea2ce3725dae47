"""What mkdocs builds besides the pages in docs/: pages made of other files, links out of docs/, and the reference."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from latex2mathml.converter import convert as to_mathml
from mkdocs.structure.files import File, Files

import reference_pages

ROOT = Path(__file__).resolve().parents[2]
#: pages made of files outside docs/, by the file
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
#: pages made of the code
REFERENCE = {
    "reference/python.md": reference_pages.python_page,
    "reference/command-line.md": reference_pages.command_line_page,
    "reference/recipe-fields.md": reference_pages.recipe_fields_page,
}
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_TEX = re.compile(r'<(span|div) class="arithmatex"(.*?)>(.*?)</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/ and those that are made of the code."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for name, make in REFERENCE.items():
        files.append(File.generated(config, name, content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Point the links of a page at the site or, where they lead out of docs/, at the repository."""
    uri = page.file.src_uri
    written = next((source for source, made in PAGES.items() if made == uri), f"docs/{uri}")
    return site_links(markdown, written, uri, config["repo_url"])


def site_links(markdown: str, written: str, uri: str, repository: str) -> str:
    """Return the text of the file `written` with links that lead on from the page `uri`.

    Where a link's text is the name of its page, it becomes the page's title. A link to nothing stays as it is, so that
    the strict build names it.
    """

    def lead(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        target = normpath(f"{Path(written).parent.as_posix()}/{path}")
        if target in PAGES or (target.startswith("docs/") and not target.endswith(".ipynb")):
            to = relpath(PAGES.get(target) or target.removeprefix("docs/"), Path(uri).parent.as_posix() or ".")
            return f"[{_title(ROOT / target) if text == Path(path).name else text}]({to}{anchor})"
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"[{text}]({repository}/{kind}/main/{target}{anchor})" if (ROOT / target).exists() else match[0]

    return _LINK.sub(lead, markdown)


def _title(page: Path) -> str:
    """Return the heading of a page, or its name if it has none."""
    lines = page.read_text(encoding="utf-8").splitlines() if page.is_file() else []
    return next((line[2:] for line in lines if line.startswith("# ")), page.name)


def on_page_content(html: str, **_: Any) -> str:
    """Turn TeX into MathML, which browsers show without a script."""
    return _TEX.sub(lambda match: _mathml(match[3], display=match[1] == "div"), html)


def _mathml(tex: str, *, display: bool) -> str:
    source = unescape(tex).strip()[2:-2]
    return f'<div class="equation">{to_mathml(source, display="block")}</div>' if display else to_mathml(source)
