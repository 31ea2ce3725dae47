"""Attention figures of captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from captionkit.data.images import open_image

# `load` imports the captioner, while it opens the model.
if TYPE_CHECKING:
    from PIL.Image import Image

    from captionkit.inference.captioner import Caption, Captioner
    from captionkit.viz.overlay import Box, Words


_PHOTO_SIDE = 1024  # images are drawn at about this size


def attention_of(captioner: Captioner, source: Any, caption: Caption) -> Any:
    """An image of the photo and where the model looked for each word."""
    from captionkit.viz.attention import attention_figure

    photo, words, region = _looked(captioner, source, caption)
    return attention_figure(photo, words, region, title=caption.text)


def _looked(captioner: Captioner, source: Any, caption: Caption) -> tuple[Image, Words, Box]:
    """What attention figures take: the photo, each word with its map, the part of the photo that the grid covers."""
    photo = open_image(source, target=(_PHOTO_SIDE, _PHOTO_SIDE))
    return photo, [(w.text, w.attention) for w in caption.words], captioner.preprocessing.region(*photo.size)
