"""Florence-2 (Xiao et al. 2023, arXiv 2311.06242): the encoder reads image features and a task, the decoder answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from captionkit.inference.published.decoder import CachedDecoder, DecoderState
from captionkit.inference.published.graphs import Graphs
from captionkit.inference.published.stepper import HIDDEN, PublishedStepper, TokenEmbeddings

if TYPE_CHECKING:
    from captionkit.inference.published.folder import PublishedFolder
    from captionkit.inference.search import Capability

#: style of caption -> the text that stands for the task <CAPTION>, <DETAILED_CAPTION> or <MORE_DETAILED_CAPTION>
PROMPTS = {
    "short": "What does the image describe?",
    "detailed": "Describe in detail what is shown in the image.",
    "long": "Describe with a paragraph what is shown in the image.",
}


class Florence2Stepper(PublishedStepper):
    """Runs vision_encoder.onnx, embed_tokens.onnx, encoder_model.onnx and the decoder."""

    capabilities: frozenset[Capability] = frozenset(("constraints", "prompt"))

    def __init__(self, folder: PublishedFolder, graphs: Graphs, style: str) -> None:
        self._vision, embed = graphs.open("vision_encoder"), TokenEmbeddings(graphs)
        self._encoder = graphs.open("encoder_model")
        first, later = graphs.decoder()
        decoder = CachedDecoder(first, later, **folder.heads, embed=embed)
        super().__init__(folder, decoder)
        prompt = folder.tokenizer.backend.encode(PROMPTS[style]).ids
        self._task = embed(np.array([prompt], np.int64))  # [1,P,D]

    def begin(self, images: np.ndarray) -> DecoderState:
        """Encode images [B,3,H,W] with the task -> hidden states [B,S+P,D]."""
        (features,) = self._vision.run(None, {"pixel_values": images})[:1]  # [B,S,D]
        task = np.repeat(self._task.astype(features.dtype, copy=False), len(images), axis=0)  # [B,P,D]
        given = np.concatenate([features, task], axis=1)  # [B,S+P,D]
        mask = np.ones(given.shape[:2], np.int64)
        (hidden,) = self._encoder.run(None, {"inputs_embeds": given, "attention_mask": mask})[:1]
        return self._decoder.begin({HIDDEN: hidden, "encoder_attention_mask": mask}, len(images))
