"""VisionEncoderDecoder: an image encoder and a language model with cross-attention, such as ViT-GPT2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captionkit.inference.published.decoder import CachedDecoder, DecoderState
from captionkit.inference.published.graphs import Graphs
from captionkit.inference.published.stepper import HIDDEN, PublishedStepper

if TYPE_CHECKING:
    import numpy as np

    from captionkit.inference.published.folder import PublishedFolder


class VisionEncoderDecoderStepper(PublishedStepper):
    """Runs encoder_model.onnx and the decoder, merged or as a pair."""

    def __init__(self, folder: PublishedFolder, graphs: Graphs) -> None:
        first, later = graphs.decoder()
        decoder = CachedDecoder(first, later, **folder.heads)
        super().__init__(folder, decoder)
        self._encoder = graphs.open("encoder_model")
        self._output = self._encoder.get_outputs()[0].name

    def begin(self, images: np.ndarray) -> DecoderState:
        """Encode images [B,3,H,W] -> hidden states [B,S,D]."""
        (hidden,) = self._encoder.run([self._output], {"pixel_values": images})
        return self._decoder.begin({HIDDEN: hidden.astype(self._decoder.dtype, copy=False)}, len(images))
