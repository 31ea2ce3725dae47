"""A self-contained web page of captioned photos: embedded images, no external resources, no scripts."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from captionkit.utils.atomic_write import MARK, write_text

#: shown instead of a percentage for captions of low confidence
NOT_SURE = "not sure"
PHOTO_SIDE = 800
FIGURE_SIDE = 2000


@dataclass(frozen=True, kw_only=True)
class Card:
    """One photo of a page.

    Attributes:
        photo: the image to show; None if it could not be opened.
        caption: the caption.
        confidence: confidence of the caption, 0 to 1; None if unknown.
        unsure: whether the confidence is too low, so that the page shows "not sure" instead of a percentage.
        alternatives: further captions, best first.
        references: reference captions written by people.
        attention: the figure returned by `attention_figure`.
        scores: scores of the caption by name, in display order.
        label: name of the photo, such as its file name.
        error: the reason if there is no caption; makes this an error card.
    """

    photo: Image.Image | None = None
    caption: str = ""
    confidence: float | None = None
    unsure: bool = False
    alternatives: Sequence[str] = ()
    references: Sequence[str] = ()
    attention: Image.Image | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    label: str = ""
    error: str = ""


def captions_page(title: str, cards: Sequence[Card], *, note: str = "") -> str:
    """Return the page as HTML. All text is escaped; `note` is shown below the title."""
    return sectioned_page(title, [("", cards)], note=note)


def sectioned_page(
    title: str,
    sections: Sequence[tuple[str, Sequence[Card]]],
    *,
    note: str = "",
    figures: Sequence[tuple[str, str]] = (),
) -> str:
    """Return a page of groups of cards under headings; `figures` are (name, value) pairs shown at the top."""
    cards = [card for _, some in sections for card in some]
    failed = sum(bool(card.error) for card in cards)
    count = f"{len(cards)} photo{'' if len(cards) == 1 else 's'}"
    if failed:
        count += f", {failed} without a caption"
    body = [
        f'<header><h1 dir="auto">{escaped(title)}</h1>',
        f'<p class="note" dir="auto">{escaped(note)}</p>' if note else "",
        f'<p class="count">{count}</p>',
        _figures(figures),
        "</header>",
        "<main>",
        *(_section(heading, some) for heading, some in sections),
        "</main>",
    ]
    return page_html(title, STYLE, body)


def page_html(title: str, style: str, body: Sequence[str]) -> str:
    """Return a page without external resources and scripts; the lines of `body` must already be HTML."""
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="generator" content="{MARK}">',
        '<meta name="color-scheme" content="light dark">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        f"<title>{escaped(title)}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        *body,
        "</body>",
        "</html>",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def write_page(path: str | os.PathLike[str], page: str) -> None:
    """Write a page atomically. Raises CaptionkitError if it cannot be written."""
    write_text(path, page)


def _section(heading: str, cards: Sequence[Card]) -> str:
    top = f'<h2 class="section" dir="auto">{escaped(heading)}</h2>' if heading else ""
    return "\n".join([f'<section>{top}<ul class="cards">', *map(_card, cards), "</ul></section>"])


def _figures(figures: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in figures)
    return f'<dl class="figures">{items}</dl>' if items else ""


def _card(card: Card) -> str:
    kind = "card error" if card.error else "card wide" if card.attention else "card"
    parts = [f'<li class="{kind}">']
    if card.photo:
        parts.append(f'<div class="photo">{image_html(card.photo, card.label or "photo", PHOTO_SIDE)}</div>')
    parts.append('<div class="text">')
    if card.error:
        parts.append(f'<h2>No caption</h2><p class="reason" dir="auto">{escaped(card.error)}</p>')
    else:
        parts.append(f'<h2 dir="auto">{escaped(card.caption)}</h2>')
    if card.confidence is not None:
        parts.append(_confidence(card.confidence, card.unsure))
    parts.append(_figures([(name, f"{value:.3f}") for name, value in card.scores.items()]))
    parts.append(_captions("Other captions", "ol", card.alternatives))
    parts.append(_captions("Written by people", "ul", card.references))
    if card.label:
        parts.append(f'<p class="label" dir="auto">{escaped(card.label)}</p>')
    parts.append("</div>")
    if card.attention:
        # Wider than a phone's screen, so it scrolls on its own; the tab stop makes it scrollable by keyboard.
        parts.append('<div class="attention" tabindex="0" role="group" aria-label="Where the model looked">')
        parts.append(image_html(card.attention, "For each word, the photo lit where the model looked", FIGURE_SIDE))
        parts.append("</div>")
    parts.append("</li>")
    return "".join(parts)


def _confidence(confidence: float, unsure: bool) -> str:
    share = min(max(confidence, 0.0), 1.0)
    bar = f'<span class="bar" aria-hidden="true"><span style="width:{share:.1%}"></span></span>'
    return f'<p class="confidence">{bar}{NOT_SURE if unsure else f"{share:.0%} confident"}</p>'


def _captions(heading: str, kind: str, captions: Sequence[str]) -> str:
    if not captions:
        return ""
    items = "".join(f'<li dir="auto">{escaped(caption)}</li>' for caption in captions)
    return f"<h3>{heading}</h3><{kind}>{items}</{kind}>"


def image_html(image: Image.Image, alt: str, longest: int) -> str:
    """Return an <img> element with an embedded JPEG, its longer side at most `longest` pixels."""
    jpeg, (width, height) = small_jpeg(image, longest)
    data = base64.b64encode(jpeg).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" alt="{escaped(alt)}">'


def small_jpeg(image: Image.Image, longest: int) -> tuple[bytes, tuple[int, int]]:
    """Return an image as a JPEG whose longer side is at most `longest` pixels, and its width and height."""
    small = image.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=85, optimize=True)
    return jpeg.getvalue(), small.size


def escaped(text: str) -> str:
    """Escape text for HTML, and replace lone surrogates, which stand for undecodable bytes in a file name."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


#: colours, light and dark
THEME = """
:root { color-scheme: light dark; --page: #f4f4f1; --card: #fff; --ink: #1f2328; --soft: #5a636d; --line: #dcdcd6;
  --frame: #e9e9e4; --accent: #0b6e67; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --card: #1e2226; --ink: #e8eaed; --soft: #a0a8b1; --line: #33393f;
    --frame: #0f1113; --accent: #5cc8be; --bad: #ff8f85; }
}
* { box-sizing: border-box; }
"""
STYLE = (
    THEME
    + """
body { margin: 0 auto; max-width: 86rem; padding: clamp(1rem, 3vw, 2.5rem); background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: clamp(1.5rem, 4vw, 2.2rem); line-height: 1.2; }
.note { margin: .5rem 0 0; max-width: 46rem; }
.count { margin: .25rem 0 1.5rem; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: 1.25rem;
  margin: 0; padding: 0; list-style: none; }
.card { overflow: hidden; border: 1px solid var(--line); border-radius: .75rem; background: var(--card);
  break-inside: avoid; }
.photo { aspect-ratio: 4 / 3; background: var(--frame); }
.photo img { display: block; width: 100%; height: 100%; object-fit: contain; }
.text { padding: 1rem 1.125rem; overflow-wrap: anywhere; }
.text > :first-child { margin-top: 0; }
.text > :last-child { margin-bottom: 0; }
h2 { margin: 0 0 .5rem; font-size: 1.15rem; line-height: 1.35; }
h3 { margin: .9rem 0 .2rem; color: var(--soft); font-size: .85rem; font-weight: 600; }
.text ol, .text ul { margin: 0; padding-inline-start: 1.3rem; font-size: .93rem; }
.confidence { display: flex; align-items: center; gap: .6rem; margin: .5rem 0; color: var(--soft); font-size: .9rem; }
.bar { flex: 0 0 5rem; height: .4rem; border-radius: .2rem; overflow: hidden; background: var(--line); }
.bar > span { display: block; height: 100%; background: var(--accent); }
.section { margin: 2rem 0 .75rem; font-size: 1.35rem; }
.figures { display: flex; flex-wrap: wrap; gap: .4rem 1.25rem; margin: .5rem 0; }
.figures dt { color: var(--soft); font-size: .8rem; }
.figures dd { margin: 0; font-variant-numeric: tabular-nums; }
header .figures { gap: .6rem 2rem; margin: 1rem 0 0; }
header .figures dd { font-size: 1.15rem; }
.label { margin: .75rem 0 0; color: var(--soft); font-size: .85rem; }
.error { align-self: start; border-color: var(--bad); }
.error h2 { color: var(--bad); }
.reason { margin: 0; }
.attention { overflow-x: auto; padding: .75rem; }
.attention img { display: block; max-width: max(100%, 42rem); height: auto; border-radius: .4rem; }
@media (min-width: 60rem) {
  .wide { grid-column: 1 / -1; display: grid; grid-template: auto 1fr / minmax(18rem, 1fr) 2.6fr; }
  .wide .attention { grid-area: 1 / 2 / 3 / 3; }
}
@media (prefers-color-scheme: dark) { .attention img { filter: brightness(.88); } }
"""
)
