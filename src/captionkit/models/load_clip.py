"""The CLIP model that CLIPScore is computed with: ONNX graphs, which need no torch, or transformers' weights."""

from __future__ import annotations

from captionkit.inference.published.clip import OnnxClipScore, has_clip_graphs
from captionkit.metrics.clip_score import ClipScoreMetric


def load_clip_score(model: str, *, device: str | None = None) -> ClipScoreMetric:
    """Load the CLIP model `model`, a folder or a Hub id; `device` is torch's, for one with weights.

    Raises ModelError if it cannot be used.
    """
    if has_clip_graphs(model):
        return OnnxClipScore(model)
    from captionkit.models.clip_score import ClipScore

    return ClipScore(model, device=device)
