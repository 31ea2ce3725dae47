"""Decoding parameters used during training."""

from __future__ import annotations

from captionkit.inference.search import Decoding

#: default decoding parameters of a saved model, tuned on Flickr8k's validation split
DECODING = Decoding(num_beams=3, length_penalty=0.7, no_repeat_ngram_size=3)
