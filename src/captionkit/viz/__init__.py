"""Visualizations: attention maps, pages of captioned photos, training curves."""

from __future__ import annotations

from captionkit.viz.animation import attention_gif
from captionkit.viz.attention import attention_figure
from captionkit.viz.attention_files import save_attention
from captionkit.viz.curves import compare_curves, draw_curves
from captionkit.viz.page import Card, captions_page, sectioned_page, write_page
from captionkit.viz.samples import sample_photos
from captionkit.viz.strip import attention_strip
from captionkit.viz.terminal import attention_text

__all__ = [
    "Card",
    "attention_figure",
    "attention_gif",
    "attention_strip",
    "attention_text",
    "captions_page",
    "compare_curves",
    "draw_curves",
    "sample_photos",
    "save_attention",
    "sectioned_page",
    "write_page",
]
