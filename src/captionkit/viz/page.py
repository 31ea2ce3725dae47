"""A self-contained web page of captioned photos: embedded images, no external resources, no scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from captionkit.utils.atomic_write import write_text
from captionkit.viz.rendering import render

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

    @property
    def share(self) -> float:
        """The confidence as a share, 0 to 1."""
        return min(max(self.confidence or 0.0, 0.0), 1.0)

    @property
    def rounded_scores(self) -> list[tuple[str, str]]:
        """The scores as text."""
        return [(name, f"{value:.3f}") for name, value in self.scores.items()]


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
    sides = {"photo_side": PHOTO_SIDE, "figure_side": FIGURE_SIDE}
    texts = {"title": title, "note": note, "count": count, "not_sure": NOT_SURE}
    return render("gallery.html", sections=sections, totals=figures, **texts, **sides)


def write_page(path: str | os.PathLike[str], page: str) -> None:
    """Write a page atomically. Raises CaptionkitError if it cannot be written."""
    write_text(path, page)
