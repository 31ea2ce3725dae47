"""The HTML card of a captioned photo: the photo, its captions, and the attention map of each word."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Caption, Outcome, Word
from captionkit.viz.overlay import Box, relative, veil
from captionkit.viz.page import NOT_SURE, PHOTO_SIDE, escaped, image_html

if TYPE_CHECKING:
    from captionkit.data.images import Preprocessing
    from captionkit.inference.published.image_processor import ImageProcessor

#: attention counts as spread out if no cell has at least this many times the mean
SPREAD = 2.0
HINT = "Point at a word or tap it, or move to it with Tab and the arrow keys, to see where the model looked."


def photo_card(
    name: str, photo: Image.Image, outcome: Outcome, preprocessing: Preprocessing | ImageProcessor, number: int
) -> str:
    """Return the card of a captioned photo; `number` makes its element ids unique on the page."""
    best = outcome.captions[0]
    others = "".join(f"<li>{_caption(caption)}</li>" for caption in outcome.captions[1:])
    data = _data(outcome.to_dict(name, maps=True))
    veil_at = _placed(preprocessing.region(*photo.size), photo.size)
    return f"""<article class="ck-card" aria-labelledby="ck-name-{number}" data-record="{data}">
<figure class="ck-figure">
<div class="ck-photo" style="--ratio:{photo.width}/{photo.height}">{image_html(photo, best.text, PHOTO_SIDE)}
<span class="ck-veil" aria-hidden="true"><img alt="" style="{veil_at}"></span></div>
<figcaption class="ck-looked" aria-live="polite" data-hint="{HINT}">{HINT}</figcaption>
</figure>
<div class="ck-text">
<h3 class="ck-name" id="ck-name-{number}" dir="auto">{escaped(name)}</h3>
{_caption(best, first=True)}
{f'<h4>Other captions</h4><ol class="ck-others">{others}</ol>' if others else ""}
<p class="ck-took">Captioned in {sum(outcome.ms.values()):.0f} ms</p>
</div>
</article>"""


def error_card(name: str, error: CaptionkitError) -> str:
    """Return the card of a photo that could not be captioned, with the reason in one line."""
    line = f"{name}: {nameless(error)}"
    return (
        f'<article class="ck-card ck-error" data-record="{_data({"path": name, "error": line})}">'
        f'<h3>No caption</h3><p dir="auto">{escaped(line)}</p></article>'
    )


def nameless(error: CaptionkitError) -> str:
    """Return an error's message without the name "bytes" of images given as bytes; the page has the file's name."""
    return str(error).removeprefix("bytes:").strip()


def _data(record: dict[str, Any]) -> str:
    """Return a photo's record as JSON escaped for an attribute; the download button collects these."""
    return escaped(json.dumps(record, ensure_ascii=False))


def _caption(caption: Caption, *, first: bool = False) -> str:
    share = f"{min(max(caption.confidence, 0.0), 1.0):.0%}"
    text, confidence = escaped(caption.text), NOT_SURE if caption.review else f"{share} sure"
    words = " ".join(_word(word, reached=number == 0) for number, word in enumerate(caption.words))
    return f"""<div class="ck-caption{" ck-best" if first else ""}">
<p class="ck-words" dir="auto" role="toolbar" aria-label="{text}">{words}</p>
<p class="ck-sure"><span class="ck-bar" aria-hidden="true"><span style="width:{share}"></span></span>
<span>{confidence}</span>
<button type="button" class="ck-copy" data-text="{text}" aria-label="Copy “{text}”">Copy</button></p>
</div>"""


def _word(word: Word, *, reached: bool) -> str:
    """Return the button of a word; arrow keys move between words, so only the first is a tab stop."""
    sure = min(max(word.confidence, 0.0), 1.0)
    looked, veiled = f"{word.text}: {sure:.0%} sure", ""
    if word.attention.size:
        looked, veiled = f"{looked}, looked {looked_at(word.attention)}", _inlined(word.attention)
    return (
        f'<button type="button" class="ck-word{" ck-unsure" if sure < 0.5 else ""}" aria-pressed="false" '
        f'tabindex="{0 if reached else -1}" style="--sure:{sure:.0%}" '
        f'data-looked="{escaped(looked)}" data-veil="{veiled}">{escaped(word.text)}</button>'
    )


def looked_at(attention: np.ndarray) -> str:
    """Describe an attention map [rows, columns] in words, such as "at the top left", or "all over the photo".

    The position is the centre of mass of the attention above the mean, since soft attention gives some to all cells.
    """
    cells = relative(attention)
    excess = np.clip(cells - cells.mean(), 0, None)
    if cells.max() < SPREAD * cells.mean() or not excess.any():
        return "all over the photo"
    down, across = (_third(excess.sum(axis) / excess.sum()) for axis in (1, 0))
    row, column = ("top", "middle", "bottom")[down], ("left", "middle", "right")[across]
    if row == column:
        return "at the middle"
    if "middle" in (row, column):
        return f"at the {column if row == 'middle' else row}"
    return f"at the {row} {column}"


def _third(shares: np.ndarray) -> int:
    """Return the third of its axis in which the centre of mass of `shares` lies: 0, 1 or 2."""
    centre = float(shares @ (np.arange(len(shares)) + 0.5)) / len(shares)
    return min(int(centre * 3), 2)


def _inlined(attention: np.ndarray) -> str:
    png = io.BytesIO()
    veil(attention).save(png, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode('ascii')}"


def _placed(region: Box, size: tuple[int, int]) -> str:
    """Return the position on the photo of the region that the model saw, in CSS percentages."""
    left, top, right, bottom = region
    width, height = size
    shares = {"left": left / width, "top": top / height}
    shares |= {"width": (right - left) / width, "height": (bottom - top) / height}
    return ";".join(f"{side}:{share:.3%}" for side, share in shares.items())


def results(cards: Sequence[str]) -> str:
    """Return all cards below a heading and the download button; further cards are only appended at the end."""
    if not cards:
        return ""
    return (
        '<header class="ck-results"><h2>Captions</h2>'
        '<button type="button" class="ck-download">Download JSON</button></header>' + "".join(cards)
    )
