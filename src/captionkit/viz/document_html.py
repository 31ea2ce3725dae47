"""Render a document as a self-contained web page: no external resources, no scripts, printable."""

from __future__ import annotations

from captionkit.viz.document import Document
from captionkit.viz.rendering import render

#: pixels of the longer side; a page with about sixteen images stays within a few megabytes
_PHOTO_SIDE = 480
_STRIP_SIDE = 1200


def document_html(document: Document) -> str:
    """Return the page as HTML. All text is escaped."""
    sides = {"photo_side": _PHOTO_SIDE, "strip_side": _STRIP_SIDE}
    return render("report.html", title=document.title, document=document, **sides)
