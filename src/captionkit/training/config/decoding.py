"""How captions are decoded while a model trains."""

from __future__ import annotations

from captionkit.inference.search import Decoding

#: how a kept model captions unless told otherwise; what suited Flickr8k's validation split
DECODING = Decoding(beam=3, length_penalty=0.7, no_repeat=3)
