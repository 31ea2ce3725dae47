"""Report sections with examples: the best, median and worst captions, and attention maps."""

from __future__ import annotations

import numpy as np

from captionkit.data.images import open_image
from captionkit.data.layouts import Example
from captionkit.errors import CaptionkitError, ImageError
from captionkit.training.report.run_data import RunData
from captionkit.viz.document import Block, Gallery, Paragraph, Shown
from captionkit.viz.strip import attention_strip

_BEST, _MIDDLE, _WORST = 6, 3, 6
#: images whose attention is shown word by word: of the best, the median and the worst
_LOOKED = (2, 1, 1)
_PHOTO = (480, 480)
_STRIP, _THUMBNAIL = 600, 110  # pixels, so that the words are legible on a phone
_RANKED_BY, _THEN_BY = "CIDEr-D", "ROUGE-L"


def captions(run_data: RunData) -> list[Block]:
    """Return captions from best to worst; for an unfinished run, those of the last evaluation."""
    if not run_data.whole:
        return _latest(run_data)
    scores = run_data.scores.per_image
    groups = groups_of(run_data)
    note = f"Ranked by the {_RANKED_BY} of each image (0 to 10), chosen from all validation images by score alone."
    return [
        Paragraph(note),
        *(
            Gallery(
                heading,
                [_shown(run_data, places, f"{_RANKED_BY} {scores[_RANKED_BY][places]:.2f}") for places in some],
            )
            for heading, some in groups.items()
        ),
    ]


def attention(run_data: RunData) -> list[Block]:
    """Return the attention for each word of the caption, for a few of those images."""
    _, decoder = run_data.architecture
    if decoder == "show-tell":
        return [Paragraph("show-tell sees an image once and as a whole, so there is nothing to show word by word.")]
    if run_data.kept is None:
        raise CaptionkitError("there is no model yet")
    captioner = run_data.load(run_data.kept)
    places = [place for n, some in zip(_LOOKED, groups_of(run_data).values(), strict=False) for place in some[:n]]
    images = []
    for place in places:
        example = _example(run_data, place)
        try:
            photo = open_image(example.image, target=(_STRIP, _STRIP))
            caption = captioner.caption(example.image)
        except ImageError as error:
            images.append(Shown(example.name, error=str(error)))
            continue
        words = [(word.text, word.attention) for word in caption.words]
        strip = attention_strip(
            photo, words, captioner.preprocessing.region(*photo.size), width=_STRIP, height=_THUMBNAIL
        )
        images.append(Shown(example.name, caption=caption.text, strip=strip))
    return [
        Paragraph("The image once for each word, lit where the model looked when it chose the word."),
        Gallery("", images),
    ]


def groups_of(run_data: RunData) -> dict[str, list[int]]:
    """Return the indices into the scores of the best, median and worst captions; the groups do not overlap.

    Ties in CIDEr-D (many of the worst have 0) are broken by ROUGE-L, then by the order of the split.
    """
    scores = run_data.scores.per_image
    order = np.lexsort((-scores[_THEN_BY], -scores[_RANKED_BY])).tolist()
    best = order[: min(_BEST, -(-len(order) // 3))]
    rest = order[len(best) :]
    worst = rest[max(0, len(rest) - min(_WORST, -(-len(order) // 3))) :][::-1]
    between = rest[: len(rest) - len(worst)]
    start = max(0, (len(between) - _MIDDLE) // 2)
    groups = {"The best": best, "In the middle": between[start : start + _MIDDLE], "The worst": worst}
    return {heading: places for heading, places in groups.items() if places}


def _example(run_data: RunData, place: int) -> Example:
    known = run_data.scores.ids[place]
    return next(example for example in run_data.val or () if example.id == known)


def _shown(run_data: RunData, place: int, score: str) -> Shown:
    example, caption = _example(run_data, place), run_data.scores.candidates[place]
    try:
        photo = open_image(example.image, target=_PHOTO)
    except ImageError as error:
        return Shown(example.name, references=example.captions, score=score, error=str(error))
    return Shown(example.name, photo, caption, example.captions, score)


def _latest(run_data: RunData) -> list[Block]:
    if not run_data.shown:
        return [Paragraph("There are none yet.")]
    images = [Shown(c.label, c.photo, c.caption, c.references, error=c.error) for c in run_data.shown]
    return [Paragraph("The first images of the validation split, at the last evaluation."), Gallery("", images)]
