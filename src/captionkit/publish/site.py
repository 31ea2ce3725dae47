"""`captionkit alttext`: fill missing alt text in the HTML, Markdown and CSV files of a folder."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from captionkit.errors import CaptionkitError
from captionkit.publish.pages import html, markdown, table
from captionkit.publish.pages.gap import Gap, filled
from captionkit.utils import atomic_write, paths

MAX_BYTES = 1 << 26
"""The largest file that is read, 64 MiB."""

_HTML = (".html", ".htm", ".xhtml", ".shtml")
_MARKDOWN = (".md", ".markdown", ".mdown")
_TABLES = (".csv", ".tsv")
SUFFIXES = (*_HTML, *_MARKDOWN, *_TABLES)


@dataclass(frozen=True)
class Page:
    """A file with missing alt texts: its content, its gaps, and the image of each reference, or why it has none."""

    path: Path
    content: bytes
    gaps: list[Gap]
    images: dict[str, Path] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def filled(self, texts: dict[Path, str]) -> bytes:
        """Return the content with the alt texts that `texts` has, by image, in its gaps."""
        known = {reference: texts[image] for reference, image in self.images.items() if image in texts}
        return filled(self.content, self.gaps, known)

    def write(self, texts: dict[Path, str]) -> None:
        """Write the alt texts into the file. Raises CaptionkitError if that fails or the file was changed meanwhile."""
        if paths.read(self.path, limit=MAX_BYTES) != self.content:
            raise CaptionkitError(f"{paths.shown(self.path)}: was changed since its images were read; run it again")
        atomic_write.write_bytes(self.path, self.filled(texts))

    def diff(self, texts: dict[Path, str]) -> str:
        """Return what `write` would change, as a unified diff."""
        before, after = (
            content.decode("utf-8", "replace").splitlines(keepends=True)
            for content in (self.content, self.filled(texts))
        )
        lines = difflib.unified_diff(before, after, f"{self.path}", f"{self.path}", n=1)
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).rstrip("\n")


def pages(site: Path, *, column: str = "") -> Iterator[Page | CaptionkitError]:
    """Yield the files of `site`, a folder or a file, in which alt text is missing, and what is wrong with others.

    Raises CaptionkitError if nothing is there. Hidden files and those behind links to folders are left out.
    """
    kind = paths.kind_of(site)
    if kind is None:
        raise CaptionkitError(f"{paths.shown(site)}: no such file or folder; check the path")
    if kind != "folder":
        paths.check_file(site)
        if site.suffix.casefold() not in SUFFIXES:
            raise CaptionkitError(f"{paths.shown(site)}: is no kind of page that is filled; give {', '.join(SUFFIXES)}")
    root = site if kind == "folder" else site.parent
    listed = list(_files(root)) if kind == "folder" else [site]
    if not listed:
        raise CaptionkitError(f"{paths.shown(site)}: no pages in this folder; looked for {', '.join(SUFFIXES)}")
    for path in listed:
        try:
            page = _page(path, root, column, named=kind != "folder")
        except CaptionkitError as error:
            yield error
        else:
            if page.gaps:
                yield page


def _files(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise CaptionkitError(paths.unreadable(error.filename, error))

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found = (name for name in sorted(names) if not name.startswith("."))
        yield from (Path(folder, name) for name in found if Path(name).suffix.casefold() in SUFFIXES)


def _page(path: Path, root: Path, column: str, *, named: bool) -> Page:
    content = paths.read(path, limit=MAX_BYTES)
    try:
        page = Page(path, content, _finder(path, column, named=named)(content))
    except CaptionkitError as error:
        raise CaptionkitError(f"{paths.shown(path)}: {error}") from None
    for gap in page.gaps:
        try:
            page.images[gap.image] = _image(gap.image, path, root)
        except CaptionkitError as error:
            page.problems[gap.image] = f"{paths.shown(path)}: {paths.shown(gap.image)}: {error}"
    return page


def _finder(path: Path, column: str, *, named: bool) -> Callable[[bytes], list[Gap]]:
    suffix = path.suffix.casefold()
    if suffix in _HTML:
        return html.gaps
    if suffix in _MARKDOWN:
        return markdown.gaps
    return partial(table.gaps, column=column, optional=not named)


def _image(reference: str, page: Path, root: Path) -> Path:
    """Return the file that a page names, which never lies outside the site. Raises CaptionkitError saying why not."""
    if reference.startswith("data:"):
        raise CaptionkitError("stands in the page itself; save it as a file")
    try:
        address = urlsplit(reference)
    except ValueError:
        raise CaptionkitError("is no address; correct it") from None
    if address.scheme or address.netloc:
        raise CaptionkitError("is elsewhere on the web; images of this site are captioned")
    name = unquote(address.path)
    base = Path(os.path.abspath(root))  # noqa: PTH100 - links inside the site belong to its owner
    start = base if name.startswith("/") else Path(os.path.abspath(page.parent))  # noqa: PTH100
    path = Path(os.path.normpath(start / name.lstrip("/")))
    if not path.is_relative_to(base):
        raise CaptionkitError(f"lies outside {paths.shown(root)}; name a folder that holds both")
    if not paths.is_file(path):
        raise CaptionkitError("is not there; correct the page or add the image")
    return path
