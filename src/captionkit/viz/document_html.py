"""Render a document as a self-contained web page: no external resources, no scripts, printable."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from captionkit.viz.document import (
    Bars,
    Block,
    Code,
    Document,
    Drawings,
    Fold,
    Gallery,
    Listing,
    Paragraph,
    Section,
    Shown,
    Table,
)
from captionkit.viz.page import THEME, escaped, image_html, page_html

#: pixels of the longer side; a page with about sixteen images stays within a few megabytes
_PHOTO_SIDE = 480
_STRIP_SIDE = 1200


def document_html(document: Document) -> str:
    """Return the page as HTML. All text is escaped."""
    figures = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}<small>{escaped(meaning)}</small></dd></div>"
        for name, value, meaning in document.figures
    )
    body = [
        f'<header><h1 dir="auto">{escaped(document.title)}</h1><p class="lead" dir="auto">{escaped(document.lead)}</p>',
        f'<dl class="key">{figures}</dl>' if figures else "",
        "</header>",
        _contents(document.sections),
        "<main>",
        *(_section(number, section) for number, section in enumerate(document.sections)),
        "</main>",
        f"<footer>{escaped(document.made_by)}</footer>",
    ]
    return page_html(document.title, THEME + _STYLE, body)


def _contents(sections: Sequence[Section]) -> str:
    links = "".join(f'<li><a href="#s{n}">{escaped(section.heading)}</a></li>' for n, section in enumerate(sections))
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if links else ""


def _section(number: int, section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return f'<section id="s{number}"><h2>{escaped(section.heading)}</h2>\n{blocks}</section>'


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Paragraph):
        return f'<p class="{"warning" if block.warning else "text"}" dir="auto">{escaped(block.text)}</p>'
    if isinstance(block, Listing):
        return f"<ul>{''.join(f'<li>{escaped(item)}</li>' for item in block.items)}</ul>"
    if isinstance(block, Code):
        return f'<pre tabindex="0"><code>{escaped(block.text.strip())}</code></pre>'
    if isinstance(block, Bars):
        return _bars(block)
    if isinstance(block, Drawings):
        return _drawings(block)
    if isinstance(block, Gallery):
        return _gallery(block)
    return _fold(block)


def _table(table: Table) -> str:
    """Render a table with row and column headers; explanations are put below row names to keep the table narrow."""
    top = "".join(f'<th scope="col">{escaped(column)}</th>' for column in table.columns)
    rows = []
    for row in table.rows:
        meaning = f"<small>{escaped(row.meaning)}</small>" if row.meaning else ""
        cells = "".join(f'<td dir="auto">{escaped(value)}</td>' for value in row.values)
        rows.append(f'<tr><th scope="row">{escaped(row.name)}{meaning}</th>{cells}</tr>')
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _bars(bars: Bars) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}<small>{escaped(meaning)}</small></th>'
        f'<td><span class="bar" aria-hidden="true"><span style="width:{share:.1%}"></span></span>{share:.0%}</td>'
        f"<td>{escaped(said)}</td></tr>"
        for name, share, said, meaning in bars.rows
    )
    top = "".join(f'<th scope="col">{name}</th>' for name in ("what", "share", "time"))
    return f'<table class="bars"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>'


def _drawings(block: Drawings) -> str:
    figures = "".join(
        f'<figure><figcaption>{escaped(title)}</figcaption><img src="data:image/svg+xml;base64,'
        f'{base64.b64encode(svg).decode("ascii")}" alt="{escaped(alt)}"></figure>'
        for title, alt, svg in block.drawings
    )
    return f'<div class="drawings">{figures}</div>'


def _gallery(gallery: Gallery) -> str:
    heading = f"<h3>{escaped(gallery.heading)}</h3>" if gallery.heading else ""
    wide = " wide" if any(shown.strip for shown in gallery.shown) else ""
    return f'{heading}<ul class="gallery{wide}">{"".join(map(_shown, gallery.shown))}</ul>'


def _shown(shown: Shown) -> str:
    parts = ["<li>"]
    if shown.strip:
        alt = f"{shown.label} once for each word of the caption, lit where the model looked"
        parts.append(f'<div class="strip">{image_html(shown.strip, alt, _STRIP_SIDE)}</div>')
    elif shown.photo:
        parts.append(f'<div class="photo">{image_html(shown.photo, f"the photo {shown.label}", _PHOTO_SIDE)}</div>')
    parts.append('<div class="said">')
    if shown.error:
        parts.append(f'<p class="broken" dir="auto">No image: {escaped(shown.error)}</p>')
    else:
        parts.append(f'<p class="caption" dir="auto">{escaped(shown.caption) or "(no word)"}</p>')
    if shown.score:
        parts.append(f'<p class="score">{escaped(shown.score)}</p>')
    if shown.references:
        items = "".join(f'<li dir="auto">{escaped(reference)}</li>' for reference in shown.references)
        parts.append(f'<p class="people">Written by people</p><ul class="references">{items}</ul>')
    parts.append(f'<p class="label" dir="auto">{escaped(shown.label)}</p></div></li>')
    return "".join(parts)


def _fold(fold: Fold) -> str:
    inner = "\n".join(map(_block, fold.blocks))
    return f"<details><summary>{escaped(fold.summary)}</summary>{inner}</details>"


_STYLE = """
body { max-width: 68rem; margin: 0 auto; padding: clamp(1rem, 4vw, 3rem); background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { margin: 0; font-size: clamp(1.6rem, 5vw, 2.4rem); line-height: 1.15; letter-spacing: -.015em;
  text-wrap: balance; }
h2 { margin: 0 0 1rem; font-size: 1.4rem; line-height: 1.25; letter-spacing: -.01em; }
h3 { margin: 1.75rem 0 .75rem; font-size: 1.05rem; }
.lead { margin: .6rem 0 0; max-width: 46rem; color: var(--soft); }
.key { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(9.5rem, 100%), 1fr)); gap: 1px;
  margin: 1.75rem 0 0; overflow: hidden; border: 1px solid var(--line); border-radius: .75rem;
  background: var(--card); }
.key div { padding: .9rem 1rem; box-shadow: 0 0 0 1px var(--line); }
.key dt { color: var(--soft); font-size: .85rem; }
.key dd { margin: .1rem 0 0; font-size: 1.7rem; font-weight: 600; line-height: 1.25; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.key small, th small { display: block; color: var(--soft); font-size: .8rem; font-weight: 400; line-height: 1.35;
  letter-spacing: 0; }
.key small { margin-top: .2rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .35rem 1.25rem; margin: 1.5rem 0 0; padding: 0; list-style: none;
  font-size: .92rem; }
a { color: var(--accent); text-underline-offset: .2em; }
section { margin-top: 3rem; }
.text, .warning { max-width: 46rem; margin: .75rem 0; overflow-wrap: anywhere; }
.warning { padding: .6rem .9rem; border-inline-start: .25rem solid var(--bad); background: var(--card);
  border-radius: .3rem; }
main > section > ul:not(.gallery), details ul:not(.gallery) { max-width: 46rem; padding-inline-start: 1.2rem;
  overflow-wrap: anywhere; }
table { width: 100%; margin: .75rem 0 1.25rem; border-collapse: collapse; font-size: .95rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .75rem .5rem 0; border-bottom: 1px solid var(--line); text-align: start; vertical-align: top;
  overflow-wrap: anywhere; }
th:last-child, td:last-child { padding-inline-end: 0; }
thead th:first-child { width: 40%; }
thead th { color: var(--soft); font-size: .8rem; font-weight: 600; }
tbody th { font-weight: 600; }
td { min-width: 4rem; }
.bars td { white-space: nowrap; }
.bar { display: inline-block; width: clamp(2.5rem, 18vw, 12rem); height: .5rem; margin-inline-end: .6rem;
  border-radius: .25rem; overflow: hidden; background: var(--line); vertical-align: .1em; }
.bar > span { display: block; height: 100%; background: var(--accent); }
pre { margin: .75rem 0; padding: .8rem 1rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); font: .85rem/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .75rem 0; }
summary { color: var(--accent); cursor: pointer; }
.drawings { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .9rem 1rem .6rem; border: 1px solid var(--line); border-radius: .75rem;
  background: var(--card); break-inside: avoid; }
figcaption { margin-bottom: .4rem; font-size: .95rem; font-weight: 600; }
figure img { display: block; width: 100%; height: auto; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15.5rem, 100%), 1fr)); gap: 1rem;
  margin: 0; padding: 0; list-style: none; }
.gallery.wide { grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
.gallery > li { overflow: hidden; border: 1px solid var(--line); border-radius: .75rem; background: var(--card);
  break-inside: avoid; }
.photo { aspect-ratio: 4 / 3; background: var(--frame); }
.photo img { display: block; width: 100%; height: 100%; object-fit: contain; }
.strip { padding: .9rem; background: #fff; }
.strip img { display: block; width: 100%; height: auto; }
.said { padding: .8rem 1rem 1rem; overflow-wrap: anywhere; }
.said p { margin: 0; }
.said .caption { font-weight: 600; line-height: 1.35; }
.said .score { margin-top: .25rem; color: var(--accent); font-size: .88rem; font-variant-numeric: tabular-nums; }
.said .people { margin-top: .6rem; color: var(--soft); font-size: .8rem; font-weight: 600; }
.references { list-style: disc; margin: .15rem 0 0; padding-inline-start: 1.1rem; font-size: .88rem; line-height: 1.4; }
.said .label { margin-top: .6rem; color: var(--soft); font-size: .78rem; }
.broken { color: var(--bad); }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .85rem; }
@media (prefers-color-scheme: dark) { .strip img { filter: brightness(.92); } .strip { background: #e6e6e6; } }
@media (max-width: 40rem) { thead th:first-child { width: 50%; } }
@page { margin: 14mm; }
@media print {
  .said { padding: .5rem .6rem; }
  .references { font-size: .78rem; }
  body { max-width: none; padding: 0; background: #fff; font-size: 10pt; }
  nav { display: none; }
  section { margin-top: 1.6rem; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  .gallery { grid-template-columns: repeat(4, 1fr); gap: .5rem; }
  .gallery.wide, .drawings { grid-template-columns: 1fr 1fr; }
}
"""
