"""Attention figures of captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from captionkit.data.images import open_image

# Imported lazily by `load`, in parallel with opening the model.
if TYPE_CHECKING:
    from PIL.Image import Image

    from captionkit.inference.captioner import Caption, Captioner
    from captionkit.viz.overlay import Box, Words


_PHOTO_SIDE = 1024  # longest side of a drawn photo, approximately


def attention_of(captioner: Captioner, source: Any, caption: Caption) -> Any:
    """Return a figure of the photo with the attention map of each word; None for a model without maps."""
    if not caption.attention.size:
        return None
    from captionkit.viz.attention import attention_figure

    photo, words, region = figure_inputs(captioner, source, caption)
    return attention_figure(photo, words, region, title=caption.text)


def figure_inputs(captioner: Captioner, source: Any, caption: Caption) -> tuple[Image, Words, Box]:
    """Return the inputs of an attention figure: photo, words with their maps, and the photo's part under the grid."""
    photo = open_image(source, target=(_PHOTO_SIDE, _PHOTO_SIDE))
    return photo, [(w.text, w.attention) for w in caption.words], captioner.preprocessing.region(*photo.size)
