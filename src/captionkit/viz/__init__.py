"""Pictures of what a model does: where it looked, pages of captioned photos, the curves of a run."""

from __future__ import annotations

from captionkit.viz.attention import attention_figure
from captionkit.viz.curves import draw_curves
from captionkit.viz.page import Card, captions_page, sectioned_page, write_page
from captionkit.viz.samples import sample_photos

__all__ = ["Card", "attention_figure", "captions_page", "draw_curves", "sample_photos", "sectioned_page", "write_page"]
